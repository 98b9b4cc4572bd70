"""The front-end VM. What runs inside the VM imports only this package."""
