from .credentials import new_token_entry as new_token_entry
from .limits import Limits as Limits
from .server import check_web_support as check_web_support
from .server import serve as serve
