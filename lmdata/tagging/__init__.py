"""What is measured of a document, and the named rules that judge it by these figures."""
