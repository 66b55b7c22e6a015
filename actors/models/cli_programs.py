"""The command-line agents that can answer, as data: how each is run, and what reads the JSON lines that it prints.

Each is run without tools as far as it lets itself be, as whatever it did would pass by the approvals here: Claude Code
and opencode offer their models none, Codex only to look at images, Gemini CLI to read its empty folder and to search
the web (seen with versions 2.1.197, 1.18.33, 0.169.0 and 0.61.0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .cli_lines import ClaudeLines, CodexLines, GeminiLines, LineReader, OpencodeLines, Report


@dataclass(frozen=True)
class Program:
    """One program: `command` makes it read its prompt from stdin and print JSON lines."""

    name: str
    display_name: str
    command: tuple[str, ...]
    open_reader: Callable[[Report], LineReader]
    variables: tuple[str, ...]
    """How the names of the variables begin that are its own: its credentials and its settings."""
    install_command: str
    docs_url: str
    environment: dict[str, str] = field(default_factory=dict[str, str])


PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (
        Program(
            "claude",
            "Claude Code",
            (
                *("claude", "--print", "--output-format", "stream-json", "--verbose", "--include-partial-messages"),
                *("--tools", "", "--strict-mcp-config", "--setting-sources", "", "--no-session-persistence"),
                *("--system-prompt", "Answer as the first part of the message tells you to."),
            ),
            ClaudeLines,
            ("ANTHROPIC_", "CLAUDE_"),
            "npm install -g @anthropic-ai/claude-code",
            "https://code.claude.com/docs",
        ),
        Program(
            "codex",
            "Codex CLI",
            (
                *("codex", "exec", "--json", "--sandbox", "read-only", "--skip-git-repo-check", "--ephemeral"),
                *("-c", "features.shell_tool=false", "-c", "features.multi_agent=false", "-c", "features.goals=false"),
                *("-c", 'web_search="disabled"', "-"),
            ),
            CodexLines,
            ("OPENAI_", "CODEX_"),
            "npm install -g @openai/codex",
            "https://developers.openai.com/codex",
        ),
        Program(
            "gemini",
            "Gemini CLI",
            ("gemini", "--output-format", "stream-json", "--approval-mode", "default", "--extensions", "none"),
            GeminiLines,
            ("GEMINI_", "GOOGLE_"),
            "npm install -g @google/gemini-cli",
            "https://geminicli.com/docs",
            {"GEMINI_CLI_TRUST_WORKSPACE": "true"},  # its workspace is an empty folder; it would ask, and wait
        ),
        Program(
            "opencode",
            "opencode",
            ("opencode", "run", "--format", "json"),
            OpencodeLines,
            ("OPENCODE_", "ANTHROPIC_", "OPENAI_", "GEMINI_", "GOOGLE_", "OPENROUTER_"),
            "npm install -g opencode-ai",
            "https://opencode.ai/docs",
            {"OPENCODE_CONFIG_CONTENT": '{"permission":{"*":"deny"}}'},
        ),
    )
}
