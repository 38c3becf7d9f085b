"""The tabs of the web page, one module each."""
