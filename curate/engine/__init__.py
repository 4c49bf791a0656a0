"""The same tasks on the processes of one machine; the only place that starts any."""
