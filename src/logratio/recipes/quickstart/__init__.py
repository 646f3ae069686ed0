"""The quickstart: the whole pipeline on the embedded model."""
