"""The backend daemon: takes instructions over the link, checks them and acts."""
