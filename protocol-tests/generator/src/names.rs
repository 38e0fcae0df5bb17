//! Kafka's names in Rust's cases.

const KEYWORDS: &[&str] =
    &["match", "type", "ref", "move", "use", "where", "loop", "final", "box", "in", "as", "mod"];

/// `TopicId` as `topic_id`, an underscore before each capital that starts a word.
pub(crate) fn snake(name: &str) -> String {
    let letters: Vec<char> = name.replace("KRaft", "Kraft").chars().collect();
    let mut out = String::new();
    for (at, &letter) in letters.iter().enumerate() {
        if letter.is_ascii_uppercase() && at > 0 {
            let after_word = !letters[at - 1].is_ascii_uppercase();
            let before_word = letters.get(at + 1).is_some_and(|next| next.is_ascii_lowercase());
            if after_word || before_word {
                out.push('_');
            }
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// The name of a field, escaped where it is a keyword.
pub(crate) fn field(name: &str) -> String {
    let name = snake(name);
    if KEYWORDS.contains(&name.as_str()) { format!("r#{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (name, snake_case) in [
            ("TopicId", "topic_id"),
            ("timeoutMs", "timeout_ms"),
            ("KRaftVersionFeature", "kraft_version_feature"),
            ("LastKnownElr", "last_known_elr"),
            ("ISR", "isr"),
        ] {
            assert_eq!(snake(name), snake_case);
        }
        assert_eq!(field("Match"), "r#match");
    }
}
