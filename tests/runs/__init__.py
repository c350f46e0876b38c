"""What reads finished runs: tables, the atlas and its gate, findings, the page, speed."""
