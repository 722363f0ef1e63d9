"""Read a page that the project has written."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """The texts of each element by name, and every address that could load something.

    Raises:
        AssertionError: if tags do not match, or the page loads something from elsewhere.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.data = ""
        self._open: list[tuple[str, bool]] = []
        self.feed(text)
        self.close()
        assert self._open == []
        assert all(address.startswith("data:image/png;base64,iVBOR") for address in self.addresses)
        assert not re.search(r"(src|href)\s*=\s*\"?(https?:|//|\.|/)|url\(|@import", text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(v) for name, v in attrs if name in ("src", "href", "srcset")]
        self.texts.setdefault(tag, []).append("")
        if tag not in ("meta", "img", "br", "input"):
            self._open.append((tag, ("id", "data") in attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            tag, holds_answers = self._open[-1]
            self.texts[tag][-1] += data
            if holds_answers:
                self.data += data
