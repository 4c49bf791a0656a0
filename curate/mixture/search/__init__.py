"""The mixture of least predicted loss, under the constraints of a request."""
