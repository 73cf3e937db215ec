"""The examples in the help of each command."""

EXAMPLES = {
    "init": ("starfish init", "starfish init deployment"),
    "serve": ("starfish serve", "starfish serve --config stack.toml --port 8080"),
    "get": ("starfish get data notes/1.json", "starfish get s3://bucket notes/1.json -o 1.json"),
    "put": (
        "starfish put data notes/1.json 1.json",
        "tar c folder | starfish put s3://bucket backups/folder.tar --create",
    ),
    "stat": ("starfish stat data notes/1.json",),
    "url": ("starfish url s3://bucket notes/1.json --expires 3600",),
    "ls": ("starfish ls data notes/ --long", "starfish ls s3://bucket --folders"),
    "du": ("starfish du data --depth 2",),
    "rm": ("starfish rm data notes/1.json notes/2.json", "starfish rm data --prefix drafts/ --yes"),
    "cp": ("starfish cp data s3://bucket/backup", "starfish cp data copies --prefix notes/ --update"),
    "repair": ("starfish repair mirror.toml --dry-run", "starfish repair mirror.toml"),
    "rotate": ("starfish rotate encrypted.toml --prefix notes/",),
    "doctor": ("starfish doctor s3://bucket", "starfish doctor stack.toml --context identity=alice"),
    "explain": ("starfish explain stack.toml",),
    "audit show": ("starfish audit show audit.jsonl --identity alice --outcome denied",),
    "audit verify": ("starfish audit verify audit.jsonl",),
}


def epilog(command: str) -> str:
    """Return a command's examples as the end of its help; click keeps line breaks after a backspace."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[command])
