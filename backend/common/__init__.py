"""Small parts that several processes of the host share."""
