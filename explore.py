"""Opens a page in the browser: paint a lesion, and see it in four contrasts.

The brain is drawn from noise, the lesion is yours. Needs the extra `app`:
pip install 'brats_gan[app]'. Nothing leaves this machine.
"""

import secrets
import socket
import webbrowser

from absl import flags

from brats_gan import common_flags, painting, runs, structural_map
from brats_gan.app import start

PORT = 8765

common_flags.data_dir(
    "Folder of subjects, synthetic ones too, for the view of volumes; real labels are "
    "of its training subjects where the weights bring none."
)
common_flags.layout()
common_flags.patient_pattern()
common_flags.labels()
common_flags.split("that of --structural_run")
common_flags.path(
    "structural_run",
    "Run of train_structural.py, or a folder of weights; `pretrained` if unset.",
)
common_flags.path(
    "multimodal_run",
    "Run of train_multimodal.py, or a folder of weights; `pretrained` if unset.",
)
common_flags.path(
    "segmentor_run", "Run whose segmentors judge the set; --multimodal_run if unset."
)
common_flags.number(
    "mae_threshold",
    structural_map.MAE_THRESHOLD,
    "Largest error that Algorithm 3 accepts.",
    0,
    1,
)
common_flags.number(
    "dice_threshold",
    None,
    "Smallest mean index Dice of the predicted labels (Section 2.8). If unset, what "
    "the weights say that they reach, or 0.95.",
    0,
    1,
)
flags.DEFINE_bool(
    "mask_images", True, "Set slices to 0 outside the mask and below 0.02 (D40)."
)
common_flags.cache_dir()
common_flags.check("Check the data first.")
_PORT = common_flags.count(
    "port",
    None,
    f"Port to listen at; 0 is any. If unset, {PORT}, or any where that is taken. The "
    "browser keeps what was painted by port.",
    65535,
    0,
)
_BROWSER = flags.DEFINE_bool("browser", True, "Open the page in the browser.")


def main(argv):
    del argv  # checked by runs.main
    server = start.server()  # before anything takes long: is the extra there?
    with listening(_PORT.value) as listener:
        answers = start.answers(
            common_flags.chosen(painting.Settings), common_flags.source()
        )
        token, port = secrets.token_urlsafe(24), listener.getsockname()[1]
        address = f"http://{server.HOST}:{port}/#{token}"
        print(f"the page is at {address}", flush=True)
        print("it ends with Ctrl-C", flush=True)
        if _BROWSER.value:
            webbrowser.open(address)
        server.run(answers, token, listener)


def listening(port):
    """A socket at a port of this machine alone; whoever comes early waits in line."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", PORT if port is None else port))
    except OSError as error:
        if port is None:
            listener.bind(("127.0.0.1", 0))
        else:
            listener.close()
            raise runs.RunError(
                f"--port={port} cannot be had ({error.strerror}); give another, or none"
            ) from error
    listener.listen()
    return listener


if __name__ == "__main__":
    runs.main(main)
