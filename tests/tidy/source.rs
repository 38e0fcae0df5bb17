//! Source files as the rules see them: code without comments and literals, line by line, with test code marked.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// One file of the repository.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// `text` with comments and the contents of literals blanked; of the same length, with the same line ends.
    pub(crate) code: String,
    /// Byte ranges of `code` that are compiled for tests alone.
    tests: Vec<Range<usize>>,
    /// The bodies of inline modules.
    modules: Vec<Range<usize>>,
}

impl Source {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = if path.ends_with(".rs") { blank(&text) } else { text.clone() };
        let tests = test_regions(&code);
        let modules = words(&code, "mod").filter_map(|at| body_after(&code, at)).collect();
        Self { path, text, code, tests, modules }
    }

    /// Line number of the byte at `offset`, from 1.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// True if the byte at `offset` belongs to code that only tests compile.
    pub(crate) fn is_test(&self, offset: usize) -> bool {
        self.tests.iter().any(|region| region.contains(&offset))
    }

    /// Marks the whole file as test code.
    pub(crate) fn mark_test(&mut self) {
        self.tests.clear();
        self.tests.push(0..self.text.len());
    }

    /// Where `mod tests { … }` begins and ends.
    pub(crate) fn inline_tests(&self) -> impl Iterator<Item = (usize, usize)> {
        let starts = self.find_in_all("mod tests");
        starts.filter_map(|at| body_after(&self.code, at).map(|body| (at, body.end)))
    }

    /// How many inline modules enclose the byte at `offset`.
    pub(crate) fn module_depth(&self, offset: usize) -> usize {
        self.modules.iter().filter(|body| body.contains(&offset)).count()
    }

    /// Where `pattern` stands in the code outside of tests, not as a part of a longer word.
    pub(crate) fn find<'a>(&'a self, pattern: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.find_in_all(pattern).filter(|at| !self.is_test(*at))
    }

    /// As [`find`](Self::find), tests included.
    pub(crate) fn find_in_all<'a>(&'a self, pattern: &'a str) -> impl Iterator<Item = usize> + 'a {
        words(&self.code, pattern)
    }

    /// True if a comment with `marker` stands on the line of `offset` or on the comment lines directly above it.
    pub(crate) fn has_comment(&self, offset: usize, marker: &str) -> bool {
        let lines: Vec<&str> = self.text.lines().collect();
        let here = self.line(offset) - 1;
        let comment_of = |line: &str| line.find("//").map(|at| line[at..].to_owned());
        if comment_of(lines[here]).is_some_and(|comment| comment.contains(marker)) {
            return true;
        }
        lines[..here]
            .iter()
            .rev()
            .take_while(|line| line.trim_start().starts_with("//"))
            .any(|line| line.contains(marker))
    }

    /// The modules that this file declares for tests alone in files of their own: paths without ending.
    fn test_modules(&self) -> Vec<String> {
        words(&self.code, "mod")
            .filter(|at| self.is_test(*at))
            .filter_map(|at| {
                let rest = self.code[at + 3..].trim_start();
                let name = identifier(rest);
                if !rest[name.len()..].trim_start().starts_with(';') {
                    return None;
                }
                let region = self.tests.iter().find(|region| region.contains(&at))?;
                // A literal, so it is looked up in the text.
                let attribute = self.text[region.start..at].split("#[path = \"").nth(1);
                let file = attribute.and_then(|attribute| attribute.split('"').next());
                Some(match (file, self.path.rsplit_once('/')) {
                    (Some(file), Some((folder, _))) => format!("{folder}/{}", file.trim_end_matches(".rs")),
                    _ => child(&self.path, name),
                })
            })
            .collect()
    }
}

/// All text files of the repository but generated and foreign ones, in order of their paths.
pub(crate) fn repository() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(read_all)
}

fn read_all() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(root, &mut paths);
    paths.sort();
    let mut sources: Vec<_> = paths
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            let relative = path.strip_prefix(root).expect("collected below the root");
            let names: Vec<_> = relative.iter().map(|name| name.to_string_lossy()).collect();
            Some(Source::new(names.join("/"), text))
        })
        .collect();
    let tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let is_test = |module: &String| {
            source.path == format!("{module}.rs") || source.path.starts_with(&format!("{module}/"))
        };
        if tests.iter().any(is_test) {
            source.mark_test();
        }
    }
    sources
}

/// The path, without ending, of `module` declared in the file `path`.
fn child(path: &str, module: &str) -> String {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    match file {
        "mod.rs" | "lib.rs" | "main.rs" => format!("{folder}/{module}"),
        _ => format!("{folder}/{}/{module}", file.trim_end_matches(".rs")),
    }
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if !matches!(&*name, "target" | ".git" | "node_modules") {
                collect(&entry.path(), paths);
            }
        } else if kind.is_file() && name != ".git" {
            paths.push(entry.path());
        }
    }
}

/// Where `pattern` stands in `code` with word boundaries at those of its ends that are letters.
fn words<'a>(code: &'a str, pattern: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    code.match_indices(pattern).map(|(at, _)| at).filter(move |at| {
        let bytes = code.as_bytes();
        let first = pattern.as_bytes().first().is_some_and(is_word);
        let last = pattern.as_bytes().last().is_some_and(is_word);
        let before = *at > 0 && is_word(&bytes[at - 1]);
        let after = bytes.get(at + pattern.len()).is_some_and(is_word);
        !(first && before || last && after)
    })
}

/// The identifier that `text` starts with.
pub(crate) fn identifier(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    &text[..end]
}

/// The range of the block that belongs to the item at `from`; `None` if a `;` comes first.
fn body_after(code: &str, from: usize) -> Option<Range<usize>> {
    let open = from + code[from..].find(['{', ';'])?;
    code[open..].starts_with('{').then(|| open..closing(code, open))
}

/// The offset behind the bracket that closes the one at `open`.
pub(crate) fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// The items below `#[cfg(test)]` and `#[cfg(all(test, …))]`, and below attributes such as `#[tokio::test]`.
fn test_regions(code: &str) -> Vec<Range<usize>> {
    let mut regions = Vec::new();
    for (at, _) in code.match_indices("#[") {
        let end = closing(code, at + 1);
        let attribute: String =
            code[at + 2..end - 1].chars().filter(|letter| !letter.is_whitespace()).collect();
        let name = attribute.split('(').next().unwrap_or_default();
        let is_test = attribute == "cfg(test)"
            || attribute.starts_with("cfg(all(test")
            || name == "test"
            || name.ends_with("::test");
        if is_test {
            let stop = body_after(code, end).map_or_else(
                || code[end..].find(';').map_or(code.len(), |semicolon| end + semicolon + 1),
                |body| body.end,
            );
            regions.push(at..stop);
        }
    }
    regions
}

/// `text` with comments and the contents of string and character literals replaced by spaces.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut wipe = |range: Range<usize>| {
        for byte in &mut code[range] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        if rest.starts_with(b"//") {
            let end = rest.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length);
            wipe(at..end);
            at = end;
        } else if rest.starts_with(b"/*") {
            let end = end_of_comment(bytes, at);
            wipe(at..end);
            at = end;
        } else if let Some(hashes) = raw_string(rest).filter(|_| !in_word) {
            let start = at + rest.iter().position(|byte| *byte == b'"').map_or(0, |quote| quote + 1);
            let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            let length = bytes[start..].windows(close.len()).position(|window| window == close);
            let end = length.map_or(bytes.len(), |length| start + length);
            wipe(start..end);
            at = (end + close.len()).min(bytes.len());
        } else if rest[0] == b'"' {
            let end = end_of_string(bytes, at + 1);
            wipe(at + 1..end);
            at = end + 1;
        } else if let Some(length) = character(rest) {
            wipe(at + 1..at + length - 1);
            at += length;
        } else {
            at += 1;
        }
    }
    String::from_utf8(code).expect("whole literals and comments were replaced")
}

fn end_of_comment(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// The offset of the quote that ends the string whose contents begin at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

/// The number of hashes if a raw string starts here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let rest =
        rest.strip_prefix(b"b").or_else(|| rest.strip_prefix(b"c")).unwrap_or(rest).strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    (rest.get(hashes) == Some(&b'"')).then_some(hashes)
}

/// The length of a character literal if one starts here; lifetimes are none.
fn character(rest: &[u8]) -> Option<usize> {
    let contents = rest.strip_prefix(b"'")?;
    if contents.first() == Some(&b'\\') {
        let end = contents.iter().skip(2).position(|byte| *byte == b'\'')?;
        return Some(end + 4);
    }
    let length = match contents.first()? {
        0..0x80 => 1,
        0x80..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    };
    (contents.get(length) == Some(&b'\'')).then_some(length + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_kept() {
        let text = "let a = \"x // \\\" {\"; // panic!\nlet b = '{'; /* a /* b */ } */ fn f<'a>(c: &'a str) {}\nr#\"un\"wrap\"#";
        let source = Source::new("a.rs", text);
        assert_eq!(source.code.len(), text.len());
        assert!(source.code.contains("fn f<'a>(c: &'a str) {}"), "{}", source.code);
        for gone in ["x //", "panic", "'{'", "b */ }", "wrap"] {
            assert!(!source.code.contains(gone), "{gone} in {}", source.code);
        }
        assert_eq!(source.line(text.len() - 1), 3);
    }

    #[test]
    fn test_code_is_recognised() {
        let text = "fn a() { x() }\n#[cfg(test)]\nmod tests { use super::*; fn b() { x() } }\n#[tokio::test(start_paused = true)]\nasync fn c() { x() }\nfn d() { x() }";
        let source = Source::new("a.rs", text);
        let lines: Vec<_> = source.find("x()").map(|at| source.line(at)).collect();
        assert_eq!(lines, [1, 6]);
        let inner = text.find("super").expect("it is there");
        assert_eq!(source.module_depth(inner), 1);
        assert_eq!(source.module_depth(0), 0);
    }

    #[test]
    fn modules_for_tests_alone_are_found_in_their_files() {
        let source = Source::new("src/net/driver.rs", "#[cfg(test)]\nmod tests;\nmod other;");
        assert_eq!(source.test_modules(), ["src/net/driver/tests"]);
        let source = Source::new("src/net/driver.rs", "#[cfg(test)]\n#[path = \"cases.rs\"]\nmod tests;");
        assert_eq!(source.test_modules(), ["src/net/cases"]);
        assert_eq!(child("src/net/mod.rs", "tests"), "src/net/tests");
    }
}
