"""The web page: train, chat, export. Thin: it knows the rooms below, and none of them knows it.

server.py     the launch: who may connect, what may leave the machine
app.py        the page: title, tabs, tabs of plugins
look.py       colours, fonts, the few lines of CSS
controls.py   a pydantic field -> a control
toast.py      an error of ours -> a message on the page
train.py      the tab Train, with form.py (what to train) and watch.py (how it goes)
chat.py       the tab Chat, with models.py (which there are, and the loaded ones)
export.py     the tab Export
"""

from gpt2demo.ui.server import create_app, launch

__all__ = ["create_app", "launch"]
