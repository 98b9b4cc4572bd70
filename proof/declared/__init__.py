"""What is declared of the appliance and compared by more than one folder: packet rules, kernel settings."""
