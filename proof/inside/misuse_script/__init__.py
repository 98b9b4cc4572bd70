"""The script that attacks the instruction protocol from the VM; its files are sent as one (`proof.remote_script`)."""
