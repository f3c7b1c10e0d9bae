"""The images for a kind cluster where no image registry is reached, from Debian packages and Go modules.

`programs` names the Go programs of a node, `artefacts` keeps built images in the user's cache folder by a
hash of their inputs, `node` and `databases` build them, and `build` does all of it with progress. The
contents of the images stand in `debian.sh`, `node/`, `databases/` and `go/`; kind's own files come from its
Go module.
"""

from harness.nodeimage.artefacts import Artefact
from harness.nodeimage.build import Images, ensure_images, images, kind_path

__all__ = ["Artefact", "Images", "ensure_images", "images", "kind_path"]
