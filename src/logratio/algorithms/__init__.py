"""One function an algorithm; its body reads like the pseudo-code."""
