//! Parses `bootstrap.servers`.

use crate::settings::Problems;
use crate::types::SecurityProtocol;

const SETTING: &str = "bootstrap.servers";
const PORT_DEFAULT: u16 = 9092;

/// Splits a list such as `kafka-1:9092, [::1]:9093, PLAINTEXT://kafka-2`; a missing port is 9092.
pub(super) fn parse(list: &str, protocol: SecurityProtocol, problems: &mut Problems) -> Vec<(String, u16)> {
    let mut servers = Vec::new();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match parse_one(entry, protocol) {
            Ok(server) if servers.contains(&server) => {}
            Ok(server) => servers.push(server),
            Err(problem) => problems.add(SETTING, format!("{entry:?} {problem}")),
        }
    }
    if list.split(',').all(|entry| entry.trim().is_empty()) {
        problems.add(SETTING, "at least one host:port is needed, such as localhost:9092");
    }
    servers
}

fn parse_one(entry: &str, protocol: SecurityProtocol) -> Result<(String, u16), String> {
    let address = match entry.split_once("://") {
        Some((asked, address)) if asked.parse().is_ok_and(|asked: SecurityProtocol| asked == protocol) => {
            address
        }
        Some((asked, _)) => return Err(format!("asks for {asked}, but security.protocol is {protocol}")),
        None => entry,
    };
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("has no closing bracket")?;
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port),
            None if port.is_empty() => None,
            None => return Err("has something other than a port behind the bracket".into()),
        };
        (host, port)
    } else if address.matches(':').count() > 1 {
        return Err("looks like an IPv6 address: write it in brackets, as [::1]:9092".into());
    } else {
        match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err("has no valid host name".into());
    }
    let port = match port {
        None => PORT_DEFAULT,
        Some(port) => {
            port.parse().ok().filter(|&port| port > 0).ok_or("has a port that is not in 1 to 65535")?
        }
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_and_ports_filled_in() {
        let mut problems = Problems::default();
        let servers = parse(
            "a:1, b ,[::1]:3,[fe80::1],PLAINTEXT://c:4,a:1,",
            SecurityProtocol::Plaintext,
            &mut problems,
        );
        problems.finish(()).unwrap();
        let expected = [("a", 1), ("b", 9092), ("::1", 3), ("fe80::1", 9092), ("c", 4)];
        assert_eq!(servers, expected.map(|(host, port)| (host.to_owned(), port)));
    }

    #[test]
    fn every_wrong_entry_is_named() {
        for (entry, expected) in [
            ("a:0", "65535"),
            ("a:70000", "65535"),
            ("a:x", "65535"),
            (":1", "host"),
            ("::1:9092", "brackets"),
            ("[::1", "bracket"),
            ("[::1]x", "bracket"),
            ("SSL://a:1", "PLAINTEXT"),
            ("a/b:1", "host"),
            (" ,", "at least one"),
        ] {
            let mut problems = Problems::default();
            parse(entry, SecurityProtocol::Plaintext, &mut problems);
            let error = problems.finish(()).unwrap_err().to_string();
            assert!(error.contains(expected), "{entry}: {error}");
        }
    }
}
