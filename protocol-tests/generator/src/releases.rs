//! Which versions of each API the brokers of a Kafka release offer: `src/wire/releases.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::emit::HEADER;
use crate::output::{Files, format_rust};
use crate::schema::{self, Versions};

const FILE: &str = "src/wire/releases.rs";

/// Answers that `kafka versions` wrote down, of releases whose jar holds no definitions.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recorded");

/// Major and minor number.
type Release = (u16, u16);

/// What one release offers, by API key.
type Offer = BTreeMap<i16, Versions>;

/// The file, from the definitions below `dir` (one directory per version) and what was recorded.
pub(crate) fn files(dir: &Path) -> Result<Files, String> {
    let mut offers: BTreeMap<Release, Offer> = BTreeMap::new();
    for path in entries(Path::new(RECORDED))? {
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        offers.insert(release(&path)?, recorded(&text)?);
    }
    for path in entries(dir)? {
        offers.insert(release(&path)?, defined(&path.join("common/message"))?);
    }

    for (release, offer) in &mut offers {
        // Kafka 4 names versions of Produce that it does not serve, because old librdkafka looks for them.
        if let Some(produce) = offer.get_mut(&0).filter(|_| *release >= (4, 0)) {
            produce.min = 0;
        }
    }
    let releases: Vec<Release> = offers.keys().copied().collect();
    let name = |(major, minor): Release| format!("\"{major}.{minor}\"");
    let keys = offers.values().flat_map(|offer| offer.keys().copied()).max().map_or(0, |max| max + 1);
    let mut rows = String::new();
    for key in 0..keys {
        let mut row = String::new();
        let mut last = Versions::NONE;
        for release in &releases {
            let versions = offers[release].get(&key).copied().unwrap_or(Versions::NONE);
            if versions != last {
                let _ = write!(row, "({}, {}, {}), ", name(*release), versions.min, versions.max);
                last = versions;
            }
        }
        let _ = writeln!(rows, "&[{row}], // {key}");
    }
    let names: Vec<String> = releases.iter().map(|release| name(*release)).collect();
    let text = format!(
        "{HEADER}//! Which versions of each API the brokers of a Kafka release offer.\n\n\
         /// The releases of Apache Kafka whose versions are known, from the oldest that this crate speaks to.\n\
         pub const RELEASES: &[&str] = &[{}];\n\n\
         /// Indexed by API key: from which release on which lowest and highest version holds; none if the highest is the lower.\n\
         pub(crate) static OFFERED: &[&[(&str, i16, i16)]] = &[\n{rows}];\n",
        names.join(", ")
    );
    Ok(Files::from([(PathBuf::from(FILE), format_rust(&text)?)]))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let list = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    list.map(|entry| entry.map(|entry| entry.path()).map_err(|error| error.to_string())).collect()
}

/// `2.8` of `…/2.8.2` and `…/2.8.2.txt`.
fn release(path: &Path) -> Result<Release, String> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut numbers = name.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(format!("{}: not named after a version of Kafka", path.display())),
    }
}

/// What this needs of a definition; fields of old ones are not always as later ones.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_key: Option<i16>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    listeners: Vec<String>,
    valid_versions: Versions,
    #[serde(default)]
    latest_version_unstable: bool,
}

/// The stable versions of what brokers listen to. Before 2.8 definitions do not say who listens: it is brokers.
fn defined(dir: &Path) -> Result<Offer, String> {
    let mut offer = Offer::new();
    for head in schema::read_json::<Head>(dir)? {
        let listens = |name: &str| head.listeners.iter().any(|listener| listener == name);
        let broker = head.listeners.is_empty() || listens("broker") || listens("zkBroker");
        let versions = head.valid_versions.stable(head.latest_version_unstable);
        if let Some(key) = head.api_key
            && head.kind == "request"
            && broker
            && !versions.is_empty()
        {
            offer.insert(key, versions);
        }
    }
    Ok(offer)
}

/// Lines of key, versions and name.
fn recorded(text: &str) -> Result<Offer, String> {
    let mut offer = Offer::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(Ok(key)), Some(versions)) = (words.next().map(str::parse), words.next()) else {
            return Err(format!("{line:?} is not an API key and its versions"));
        };
        offer.insert(key, Versions::try_from(versions.to_owned())?);
    }
    Ok(offer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_releases() {
        assert_eq!(release(Path::new("/x/2.8.2")), Ok((2, 8)));
        assert_eq!(release(Path::new("/x/2.1.1.txt")), Ok((2, 1)));
        assert!(release(Path::new("/x/new")).is_err());
    }

    #[test]
    fn recorded_lines() {
        let offer = recorded("0 0-7 Produce\n17 1 SaslHandshake\n").unwrap();
        assert_eq!(offer[&0], Versions { min: 0, max: 7 });
        assert_eq!(offer[&17], Versions { min: 1, max: 1 });
        assert!(recorded("Produce 0-7").is_err());
    }
}
