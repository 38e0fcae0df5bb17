//! Escapes in delimiters and formats, with kcat's peculiarities: both end at a NUL, as strings in C do.

/// A delimiter of `-D` or `-K`: `\n`, `\t` and `\xNN` are replaced, everything else is taken as it is.
///
/// # Errors
///
/// `\x` without digits.
pub(super) fn delimiter(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut text = text.to_vec();
    loop {
        // All \n go first, then all \t: what one replacement makes, a later one may find.
        let find = |escape: &[u8]| text.windows(2).position(|window| window == escape);
        let (at, byte, len) = if let Some(at) = find(b"\\n") {
            (at, b'\n', 2)
        } else if let Some(at) = find(b"\\t") {
            (at, b'\t', 2)
        } else if let Some(at) = find(b"\\x") {
            let (byte, digits) = number(&text[at + 2..], 16);
            if digits == 0 {
                let text = String::from_utf8_lossy(&text[at..]).into_owned();
                return Err(format!("{text:?} needs hexadecimal digits behind \\x"));
            }
            (at, byte, 2 + digits)
        } else {
            return Ok(text);
        };
        text.splice(at..at + len, [byte]);
        if byte == 0 {
            text.truncate(at);
        }
    }
}

/// The literal part of a format: `\n`, `\r`, `\t`, `\xNN` and `\NNN` are replaced, any other escaped character stands for
/// itself. A number begins with a decimal digit, also behind `\x`; behind a bare backslash 0 means octal and 0x hexadecimal.
pub(super) fn literal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' || rest.is_empty() {
            out.push(byte);
            continue;
        }
        let mut base = 0;
        if let Some(after) = rest.strip_prefix(b"x") {
            rest = after;
            base = 16;
        }
        let Some((&escaped, after)) = rest.split_first() else { break };
        match escaped {
            b'0'..=b'9' => {
                let (byte, len) = number(rest, base);
                out.push(byte);
                rest = &rest[len..];
                continue;
            }
            b't' if base == 0 => out.push(b'\t'),
            b'n' if base == 0 => out.push(b'\n'),
            b'r' if base == 0 => out.push(b'\r'),
            other => out.push(other),
        }
        rest = after;
    }
    let end = out.iter().position(|&byte| byte == 0).unwrap_or(out.len());
    out.truncate(end);
    out
}

/// The low byte of the number that `text` begins with, and how many bytes it takes, as strtoul: base 0 stands for decimal
/// unless the number begins with 0 (octal) or 0x.
fn number(text: &[u8], base: u32) -> (u8, usize) {
    let digit = |at: usize, base| text.get(at).and_then(|&byte| char::from(byte).to_digit(base));
    let prefixed = matches!(text, [b'0', b'x' | b'X', ..]) && digit(2, 16).is_some();
    let (base, mut at) = match (base, prefixed) {
        (0 | 16, true) => (16, 2),
        (0, false) if text.first() == Some(&b'0') => (8, 0),
        (0, false) => (10, 0),
        (base, _) => (base, 0),
    };
    let mut value = 0u64;
    while let Some(digit) = digit(at, base) {
        value = value.saturating_mul(u64::from(base)).saturating_add(u64::from(digit));
        at += 1;
    }
    (value.to_le_bytes()[0], at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delimiters() {
        for (text, expected) in [
            ("", &b""[..]),
            ("\\n", b"\n"),
            ("\\t\\n\\n", b"\t\n\n"),
            ("\\x54!\\x45\\x53T", b"T!EST"),
            ("\\x0x41", b"A"),
            ("a\\rb\\", b"a\\rb\\"),
            ("\\x5cn", b"\n"),
            ("a\\x00;b", b"a"),
        ] {
            assert_eq!(delimiter(text.as_bytes()).as_deref(), Ok(expected), "{text}");
        }
        assert!(delimiter(b"\\xg").is_err());
    }

    /// Recorded from kcat 1.7.1.
    #[test]
    fn literals() {
        assert_eq!(literal(br"\x41\x0a\ab\x4142\065\q\\\n"), b"A\nabB5q\\\n");
        assert_eq!(literal(br"\xab\r\t\65\0x41x\"), b"ab\r\tAAx\\");
        assert_eq!(literal(br"x\0y"), b"x");
        assert_eq!(literal(br"\x"), b"");
    }
}
