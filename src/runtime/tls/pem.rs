//! PEM: blocks of Base64 between lines that say what is in them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// One block.
#[derive(Debug, PartialEq)]
pub(super) struct Block {
    /// What the block says that it holds, such as `CERTIFICATE`.
    pub(super) label: String,
    pub(super) bytes: Vec<u8>,
    /// Encrypted in the form that OpenSSL wrote before 1.0, with headers before the Base64.
    pub(super) has_headers: bool,
}

/// True if there is something that begins as a block does.
pub(super) fn is_pem(text: &[u8]) -> bool {
    text.windows(BEGIN.len()).any(|window| window == BEGIN.as_bytes())
}

/// All blocks, or what is wrong with the first that is none. What stands between blocks is ignored, and `\n` written as two
/// characters ends a line: properties files have it so.
pub(super) fn blocks(text: &[u8]) -> Result<Vec<Block>, String> {
    let text = String::from_utf8_lossy(text).replace("\\n", "\n");
    let mut blocks = Vec::new();
    let mut rest = text.as_str();
    while let Some(begin) = rest.find(BEGIN) {
        rest = &rest[begin + BEGIN.len()..];
        let unfinished = || "is cut off: a line begins -----BEGIN and does not end".to_owned();
        let (label, behind) = rest.split_once(DASHES).ok_or_else(unfinished)?;
        if label.contains('\n') {
            return Err(unfinished());
        }
        let end = format!("{END}{label}{DASHES}");
        let (body, behind) =
            behind.split_once(&end).ok_or_else(|| format!("is cut off: {end} is missing"))?;
        if body.contains(BEGIN) {
            return Err(format!("is damaged: {end} is missing before the next block"));
        }
        let has_headers = body.contains(':');
        let body: String = if has_headers { String::new() } else { body.split_whitespace().collect() };
        let bytes = STANDARD.decode(body).map_err(|_| format!("is damaged: its {label} is no Base64"))?;
        blocks.push(Block { label: label.to_owned(), bytes, has_headers });
        rest = behind;
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_and_what_is_none_is_told() {
        let good = "junk\n-----BEGIN A-----\nAQ\nI=\n-----END A-----\njunk\\n-----BEGIN B-----\\nAw==\\n-----END B-----";
        let found = blocks(good.as_bytes()).unwrap();
        let expected = [("A", vec![1, 2]), ("B", vec![3])];
        let expected =
            expected.map(|(label, bytes)| Block { label: label.to_owned(), bytes, has_headers: false });
        assert_eq!(found, expected);
        let old = b"-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n\nAQI=\n-----END A-----";
        assert!(blocks(old).unwrap()[0].has_headers);
        for (text, problem) in [
            ("-----BEGIN A", "begins -----BEGIN and does not end"),
            ("-----BEGIN A\n-----", "begins -----BEGIN and does not end"),
            ("-----BEGIN A-----\nAQI=\n", "-----END A----- is missing"),
            ("-----BEGIN A-----\nAQ\n-----BEGIN A-----\nAQI=\n-----END A-----", "before the next block"),
            ("-----BEGIN A-----\n?\n-----END A-----", "its A is no Base64"),
        ] {
            let error = blocks(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        assert!(!is_pem(b"no block") && is_pem(good.as_bytes()));
    }
}
