//! Parses one value and hands it to the setting.

use std::time::Duration;

use super::ClientSettings;
use super::table::{Kind, Setting};

/// Applies `text` to `settings`, or says what is wrong with it, without the setting's name.
pub(super) fn apply(setting: &Setting, text: &str, settings: &mut ClientSettings) -> Result<(), String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is not valid: use {}", setting.range());
    match &setting.kind {
        Kind::Text(set) => set(settings, text),
        Kind::Bool(set) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => set(settings, true),
            "false" | "0" | "f" => set(settings, false),
            _ => return Err(wrong()),
        },
        Kind::Millis(min, max, set) => {
            set(settings, Duration::from_millis(number(text, *min, *max).ok_or_else(wrong)?));
        }
        Kind::Bytes(min, max, set) => {
            let bytes = number(text, *min, *max).and_then(|bytes| usize::try_from(bytes).ok());
            set(settings, bytes.ok_or_else(wrong)?);
        }
        Kind::Number(min, max, set) => {
            let number = text.parse::<i64>().ok().filter(|number| (min..=max).contains(&number));
            set(settings, number.ok_or_else(wrong)?);
        }
        Kind::Word(words, set) => {
            let word = words.iter().find(|word| word.eq_ignore_ascii_case(text));
            set(settings, word.ok_or_else(wrong)?);
        }
        Kind::Words(words, set) => {
            let mut chosen = Vec::new();
            for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                let word = words.iter().find(|word| word.eq_ignore_ascii_case(part));
                chosen.push(*word.ok_or_else(|| format!("{part:?} is not valid: use {}", setting.range()))?);
            }
            if chosen.is_empty() {
                return Err(wrong());
            }
            set(settings, &chosen);
        }
        Kind::Refused(accepted) => {
            if !accepted.iter().any(|accepted| accepted.eq_ignore_ascii_case(text)) {
                return Err(match accepted {
                    [] => format!("is not supported: {}", setting.note),
                    accepted => {
                        format!("{text:?} is not supported, only {}: {}", accepted.join(" or "), setting.note)
                    }
                });
            }
        }
        Kind::Secret => return Err(format!("is not supported: {}", setting.note)),
    }
    Ok(())
}

fn number(text: &str, min: u64, max: u64) -> Option<u64> {
    text.parse().ok().filter(|number| (min..=max).contains(number))
}
