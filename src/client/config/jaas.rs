//! `sasl.jaas.config`: the one line in which Java's clients take credentials.
//!
//! ```text
//! org.apache.kafka.common.security.plain.PlainLoginModule required username="alice" password="secret";
//! ```
//!
//! No message shows a value, and none the text itself.

use std::collections::BTreeMap;

use crate::types::Secret;

pub(super) const PLAIN: &str = "PlainLoginModule";
#[cfg(feature = "sasl")]
pub(super) const SCRAM: &str = "ScramLoginModule";
#[cfg(feature = "sasl")]
pub(super) const OAUTH: &str = "OAuthBearerLoginModule";
#[cfg(feature = "sasl")]
pub(super) const MSK: &str = "IAMLoginModule";

/// The options of the one module in `text`, which has to be `module`.
pub(super) fn read(text: &str, module: &str) -> Result<BTreeMap<String, Secret>, String> {
    let words = split(text)?;
    let mut words = words.into_iter();
    let name = words.next().filter(|word| !word.contains('=')).ok_or("does not begin with a login module")?;
    if name.rsplit('.').next() != Some(module) {
        // A class name and nothing else is safe to show.
        let is_class = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '$'));
        let shown = if is_class { format!(" {name}") } else { String::new() };
        return Err(format!("names the module{shown}, but the mechanism takes {module}"));
    }
    let flag = words.next().unwrap_or_default();
    if !["required", "requisite", "sufficient", "optional"]
        .iter()
        .any(|known| flag.eq_ignore_ascii_case(known))
    {
        return Err("has no flag such as `required` behind the module".to_owned());
    }
    let mut options = BTreeMap::new();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err("has something behind the flag that is not of the form name=\"value\"".to_owned());
        };
        options.insert(name.to_owned(), Secret::from(value));
    }
    Ok(options)
}

/// Words as Java splits them: by white space outside of quotes, up to the semicolon; quotes are taken off, and a backslash
/// within them makes the next character plain.
fn split(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut begun) = (Vec::new(), String::new(), false);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' | '\'' => {
                begun = true;
                loop {
                    match characters.next() {
                        Some('\\') => word.extend(characters.next()),
                        Some(end) if end == c => break,
                        Some(other) => word.push(other),
                        None => return Err("has a quote that is not closed".to_owned()),
                    }
                }
            }
            ';' => {
                if begun {
                    words.push(word);
                }
                return match characters.as_str().trim() {
                    "" => Ok(words),
                    _ => Err("has more than one login module; the first `;` ends it".to_owned()),
                };
            }
            c if c.is_whitespace() => {
                if begun {
                    words.push(std::mem::take(&mut word));
                    begun = false;
                }
            }
            c => {
                begun = true;
                word.push(c);
            }
        }
    }
    Err("does not end with a semicolon".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_java_reads_them() {
        let read = |text: &str| read(text, PLAIN);
        let options =
            read("a.b.PlainLoginModule required\n username=\"a b\"\tpassword='x\\'=;\"y' empty=\"\";")
                .unwrap();
        let got: Vec<_> = options.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(got, [("empty", ""), ("password", "x'=;\"y"), ("username", "a b")]);
        for (text, expected) in [
            ("", "semicolon"),
            ("a.PlainLoginModule required username=u", "semicolon"),
            (";", "login module"),
            ("username=u;", "login module"),
            ("a.ScramLoginModule required;", "takes PlainLoginModule"),
            ("a.PlainLoginModule username=u;", "flag"),
            ("a.PlainLoginModule required username;", "name="),
            ("a.PlainLoginModule required; b.PlainLoginModule required;", "more than one"),
            ("a.PlainLoginModule required password=\"x;", "quote"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }
}
