"""The napari plugin: the only place that knows napari and Qt. Nothing here imports torch before Run is pressed."""
