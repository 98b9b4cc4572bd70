"""The host side of the appliance. What runs on the host image imports only this package."""
