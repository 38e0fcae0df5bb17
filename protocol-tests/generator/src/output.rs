//! The files: which messages go where, formatting, writing and comparing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::emit::{self, HEADER};
use crate::model::Message;
use crate::names;
use crate::schema::{Definition, Field, Versions};
use crate::table;

const MESSAGES: &str = "src/wire/messages";

/// Types that are not the body of a request or response.
const OTHERS: &[(&str, &str)] = &[
    ("RequestHeader", "The header in front of a request, from version 1 on."),
    ("ResponseHeader", "The header in front of a response."),
    ("ConsumerProtocolSubscription", "What a member of a classic consumer group sends with JoinGroup."),
    ("ConsumerProtocolAssignment", "What the leader of a classic consumer group assigns with SyncGroup."),
];

/// Paths below the root of the repository, and contents.
pub(crate) type Files = BTreeMap<PathBuf, String>;

/// All generated files.
pub(crate) fn files(definitions: &[Definition]) -> Result<Files, String> {
    let find = |name: &str| definitions.iter().find(|d| d.name == name).ok_or(format!("{name} is missing"));
    let mut apis: Vec<(i16, &str, &Definition)> = Vec::new();
    for definition in definitions.iter().filter(|d| d.kind == "request") {
        let name =
            definition.name.strip_suffix("Request").ok_or(format!("{} is not a request", definition.name))?;
        apis.push((definition.api_key.ok_or(format!("{name} has no API key"))?, name, definition));
    }
    apis.sort_by_key(|api| api.0);
    if apis.iter().enumerate().any(|(at, api)| at != usize::from(api.0.unsigned_abs())) {
        return Err("the API keys are not contiguous".to_owned());
    }

    let mut files = Files::new();
    let mut modules: Vec<(String, String)> = Vec::new();
    let mut table = String::new();
    let mut constants = String::new();
    let mut checks = String::new();
    let mut described = Vec::new();
    for (key, name, request) in &apis {
        let spoken = request.listeners.iter().any(|listener| listener == "broker");
        let versions = request.stable_versions();
        let shown = if spoken && !versions.is_empty() {
            format!("Some(VersionRange::new({}, {}))", versions.min, versions.max)
        } else {
            "None".to_owned()
        };
        let flexible = match request.flexible_versions {
            flexible if flexible.is_empty() => "i16::MAX".to_owned(),
            Versions { min, .. } => min.to_string(),
        };
        let throttle = definitions.iter().find(|d| d.name == format!("{name}Response")).and_then(throttle);
        let _ = writeln!(
            table,
            "Api {{ name: \"{name}\", versions: {shown}, flexible: {flexible}, throttle: {throttle:?} }},"
        );
        let constant = names::snake(name).to_uppercase();
        let _ = writeln!(constants, "/// `{name}`.\npub const {constant}: Self = Self({key});");
        if !spoken || versions.is_empty() {
            continue;
        }
        let _ =
            writeln!(checks, "ApiKey::{constant} => decode_body::<{name}Response>(r, version).map(drop),");
        let mut response = Message::new(find(&format!("{name}Response"))?, versions);
        response.flexible = request.flexible_versions;
        let mut messages = [Message::new(request, versions), response];
        described.extend(messages.iter().cloned());
        let title = format!("`{name}`, API key {key}, versions {versions}.");
        let module = names::snake(name);
        files.insert(path(&module), format_rust(&emit::file(&title, &mut messages))?);
        modules.push((module, format!("{name}Request, {name}Response")));
    }
    for (name, title) in OTHERS {
        let definition = find(name)?;
        let mut messages = [Message::new(definition, definition.stable_versions())];
        described.extend(messages.iter().cloned());
        let module = names::snake(name);
        files.insert(path(&module), format_rust(&emit::file(title, &mut messages))?);
        modules.push((module, (*name).to_owned()));
    }
    modules.sort();

    let mut index = format!(
        "{HEADER}//! The messages of the protocol, one module per API, generated from the definitions of Apache Kafka.\n//!\n//! Fields that a version lacks hold their default after decoding. Encoding refuses a version that lacks a field\n//! which is set, unless the protocol says that it may be left out.\n\n"
    );
    for (module, _) in &modules {
        let _ = writeln!(index, "pub mod {module};");
    }
    index.push_str("#[cfg(feature = \"readable\")]\npub(crate) mod schemas;\n\n");
    for (module, types) in &modules {
        let _ = writeln!(index, "pub use {module}::{{{types}}};");
    }
    let _ = write!(
        index,
        "\nuse crate::wire::api_key::Api;\n#[cfg(feature = \"kafka-protocol\")]\nuse crate::wire::frame::decode_body;\nuse crate::wire::{{ApiKey, VersionRange}};\n#[cfg(feature = \"kafka-protocol\")]\nuse crate::wire::{{DecodeError, DecodeErrorKind, Reader}};\n\nimpl ApiKey {{\n{constants}}}\n\n/// Indexed by API key.\npub(crate) static APIS: &[Api] = &[\n{table}];\n\n/// Fails unless what is left in `r` is a response of the API.\n#[cfg(feature = \"kafka-protocol\")]\npub(crate) fn check_response(key: ApiKey, r: &mut Reader, version: i16) -> Result<(), DecodeError> {{\nmatch key {{\n{checks}_ => Err(DecodeError::new(\"response\", version, DecodeErrorKind::UnsupportedVersion, 0)),\n}}\n}}\n"
    );
    files.insert(path("mod"), format_rust(&index)?);
    files.insert(path("schemas"), format_rust(&table::file(&described)?)?);
    Ok(files)
}

/// Where the body of a response says for how long the client has to pause, and from which version on the pause is the
/// client's affair; `None` where what lies before the field has no fixed size.
fn throttle(response: &Definition) -> Option<(usize, i16)> {
    let index = response.fields.iter().position(|field| field.name == "ThrottleTimeMs")?;
    let (before, rest) = response.fields.split_at(index);
    let since = response.throttled_since.unwrap_or(0).max(rest[0].versions.min);
    let size = |field: &Field| match field.kind.as_str() {
        _ if field.versions.min > since || field.versions.max < i16::MAX => None,
        "bool" | "int8" => Some(1),
        "int16" => Some(2),
        "int32" => Some(4),
        "int64" => Some(8),
        _ => None,
    };
    let at = before.iter().map(size).sum::<Option<usize>>()?;
    Some((at, since))
}

fn path(module: &str) -> PathBuf {
    Path::new(MESSAGES).join(format!("{module}.rs"))
}

/// Writes the files and removes generated ones that are no longer among them.
pub(crate) fn write(root: &Path, files: &Files) -> Result<(), String> {
    for (path, text) in files {
        let path = root.join(path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        if fs::read_to_string(&path).ok().as_ref() != Some(text) {
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    for path in leftovers(root, files)? {
        fs::remove_file(root.join(&path)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Names the files that are not as generated; true without any.
pub(crate) fn differences(root: &Path, files: &Files) -> Result<bool, String> {
    let mut equal = true;
    for (path, text) in files {
        if fs::read_to_string(root.join(path)).ok().as_ref() != Some(text) {
            eprintln!("{} differs from what the generator writes", path.display());
            equal = false;
        }
    }
    for path in leftovers(root, files)? {
        eprintln!("{} is not generated any more", path.display());
        equal = false;
    }
    Ok(equal)
}

/// Generated files that are not among `files`, if those are the messages.
fn leftovers(root: &Path, files: &Files) -> Result<Vec<PathBuf>, String> {
    let mut left = Vec::new();
    if !files.contains_key(&path("mod")) {
        return Ok(left);
    }
    for entry in fs::read_dir(root.join(MESSAGES)).map_err(|error| error.to_string())? {
        let path = Path::new(MESSAGES).join(entry.map_err(|error| error.to_string())?.file_name());
        if !files.contains_key(&path) {
            left.push(path);
        }
    }
    Ok(left)
}

/// `source` as rustfmt writes it with the settings of the repository.
pub(crate) fn format_rust(source: &str) -> Result<String, String> {
    let settings = concat!(env!("CARGO_MANIFEST_DIR"), "/../../rustfmt.toml");
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path", settings])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("rustfmt: {error}"))?;
    if let Some(mut stdin) = rustfmt.stdin.take() {
        stdin.write_all(source.as_bytes()).map_err(|error| format!("rustfmt: {error}"))?;
    }
    let output = rustfmt.wait_with_output().map_err(|error| format!("rustfmt: {error}"))?;
    if !output.status.success() {
        return Err(format!("rustfmt refused:\n{source}"));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}
