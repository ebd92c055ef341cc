from .app_folder import check_monai_label as check_monai_label
from .app_folder import check_port as check_port
from .app_folder import server_command as server_command
from .app_folder import start_server as start_server
from .app_folder import write_app_folder as write_app_folder
from .submitted_labels import LabelImport as LabelImport
from .submitted_labels import import_submitted_labels as import_submitted_labels
