"""The MONAI Label app: proposals for annotators, the next image to label, training on labels.

``app``, ``datastore``, ``infer``, ``strategies`` and ``train`` are classes of MONAI Label and need
it; the other modules do not.
"""
