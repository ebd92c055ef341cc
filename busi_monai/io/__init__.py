"""Images, DICOM files, videos and archives: how they are read, and the limits of what is read."""
