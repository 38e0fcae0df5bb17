//! The class path of a Kafka version, resolved with Maven as the machine configures it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Failure;
use super::version::Version;

/// Log binding of Kafka 4: SLF4J 1.7 to Log4j 2. Without one a failing broker says nothing.
const LOG4J2_BINDING: (&str, &str, &str) = ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4");
/// Log binding of Kafka 3 and most of 2.
const RELOAD4J_BINDING: (&str, &str, &str) = ("org.slf4j", "slf4j-reload4j", "1.7.36");

/// Log binding of Kafka 2.1 to 2.3, whose SLF4J is too old for the other one.
const LOG4J_BINDING: (&str, &str, &str) = ("org.slf4j", "slf4j-log4j12", "1.7.25");
/// The ZooKeeper of 2.1 to 2.3 does not find its way on Java 14 and newer.
const ZOOKEEPER: (&str, &str, &str) = ("org.apache.zookeeper", "zookeeper", "3.5.9");

/// 4.4.0 names an artifact that was not published with it; the one of 4.3.1 fits.
const TOOLS_API: &str = "kafka-tools-api";
const TOOLS_API_VERSION: &str = "4.3.1";

const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// The directory with the jars of `version`, below `root`; resolves them on first use.
pub(super) fn resolve(root: &Path, version: Version) -> Result<PathBuf, Failure> {
    let jars = root.join("artifacts").join(version.to_string()).join("jars");
    if jars.is_dir() {
        return Ok(jars);
    }
    eprintln!("resolving Apache Kafka {version} with Maven …");
    // Several processes may resolve at once: each into its own directory, the first rename wins.
    let work = root.join("artifacts").join(format!(".{version}-{}", std::process::id()));
    let result = resolve_into(&work, version, &jars);
    let _ = fs::remove_dir_all(&work);
    result.map(|()| jars)
}

fn resolve_into(work: &Path, version: Version, jars: &Path) -> Result<(), Failure> {
    fs::create_dir_all(work).map_err(|error| Failure::io(format!("create {}", work.display()), error))?;
    let new = work.join("jars");
    let output = match copy_dependencies(work, &new, &pom(version, false))? {
        Some(output) if output.contains(&format!("org.apache.kafka:{TOOLS_API}:jar:{version}")) => {
            eprintln!("{TOOLS_API} {version} is not published, using {TOOLS_API_VERSION}");
            let _ = fs::remove_dir_all(&new);
            copy_dependencies(work, &new, &pom(version, true))?
        }
        output => output,
    };
    if let Some(output) = output {
        let cause = cause(&output);
        return Err(Failure::failed(format!(
            "Maven could not resolve Apache Kafka {version}:
{cause}"
        )));
    }
    let parent = jars.parent().unwrap_or(jars);
    fs::create_dir_all(parent).map_err(|error| Failure::io(format!("create {}", parent.display()), error))?;
    match fs::rename(&new, jars) {
        Err(_) if jars.is_dir() => Ok(()),
        other => other.map_err(|error| Failure::io(format!("move jars to {}", jars.display()), error)),
    }
}

/// Runs Maven; its output when it fails.
fn copy_dependencies(work: &Path, jars: &Path, pom: &str) -> Result<Option<String>, Failure> {
    let file = work.join("pom.xml");
    fs::write(&file, pom).map_err(|error| Failure::io(format!("write {}", file.display()), error))?;
    let output = Command::new("mvn")
        .args(["-q", "-B", "-U", "-Dstyle.color=never", "-f"])
        .arg(&file)
        .arg(COPY)
        .arg(format!("-DoutputDirectory={}", jars.display()))
        .arg("-DincludeScope=runtime")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Failure::failed(format!("run mvn: {error}; install Maven (Debian: apt-get install maven)"))
        })?;
    if output.status.success() {
        return Ok(None);
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(Some(text))
}

/// What Maven said before its general advice.
fn cause(output: &str) -> String {
    let lines = output.lines().map(|line| line.replace("\u{1b}[0m", "").trim_end().to_owned());
    lines.take_while(|line| line != "[ERROR]").collect::<Vec<_>>().join("\n")
}

/// A project whose runtime dependencies are a whole broker; `pin` replaces the unpublished artifact.
fn pom(version: Version, pin: bool) -> String {
    let dependency = |(group, artifact, version): (&str, &str, &str), inner: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version>{inner}</dependency>\n"
        )
    };
    let binding = match version.logs_with_log4j2() {
        true => LOG4J2_BINDING,
        false if version.needs_newer_zookeeper() => LOG4J_BINDING,
        false => RELOAD4J_BINDING,
    };
    let group = "org.apache.kafka";
    let exclusion = format!(
        "<exclusions><exclusion><groupId>{group}</groupId><artifactId>{TOOLS_API}</artifactId></exclusion></exclusions>"
    );
    let mut dependencies =
        dependency((group, version.artifact(), &version.to_string()), if pin { &exclusion } else { "" });
    dependencies.push_str(&dependency(binding, ""));
    if version.needs_newer_zookeeper() {
        dependencies.push_str(&dependency(ZOOKEEPER, ""));
    }
    if pin {
        dependencies.push_str(&dependency((group, TOOLS_API, TOOLS_API_VERSION), ""));
    }
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n<modelVersion>4.0.0</modelVersion>\n\
         <groupId>local</groupId><artifactId>kafka-cluster</artifactId><version>1</version>\n\
         <dependencies>\n{dependencies}</dependencies>\n</project>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binding_follows_the_version() {
        let old = pom("3.9.2".parse().unwrap(), false);
        assert!(old.contains("<artifactId>kafka_2.13</artifactId><version>3.9.2</version>"));
        assert!(old.contains("slf4j-reload4j") && !old.contains("log4j-slf4j-impl"));
        let oldest = pom("2.1.1".parse().unwrap(), false);
        assert!(
            oldest.contains("<artifactId>kafka_2.12</artifactId>")
                && oldest.contains("<version>3.5.9</version>")
        );
        let new = pom("4.3.1".parse().unwrap(), false);
        assert!(new.contains("log4j-slf4j-impl") && !new.contains("reload4j") && !new.contains("exclusion"));
    }

    #[test]
    fn maven_output_is_cut_to_the_cause() {
        assert_eq!(cause("\u{1b}[0m[ERROR] no such jar\n[ERROR] \n[ERROR] use -X\n"), "[ERROR] no such jar");
    }

    #[test]
    fn pin_replaces_the_missing_artifact() {
        let pom = pom("4.4.0".parse().unwrap(), true);
        assert!(pom.contains(
            "<exclusion><groupId>org.apache.kafka</groupId><artifactId>kafka-tools-api</artifactId>"
        ));
        assert!(pom.contains("<artifactId>kafka-tools-api</artifactId><version>4.3.1</version>"));
    }
}
