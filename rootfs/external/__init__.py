"""The BR2_EXTERNAL tree (https://buildroot.org/downloads/manual/manual.html#outside-br-custom)."""
