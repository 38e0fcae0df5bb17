//! Corpora: text files with one input per line, in hexadecimal. One file per target keeps them small and easy to merge;
//! libFuzzer wants a directory with one file per input, which [`unpack`] makes and [`pack`] reads.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Target;
use crate::seeds::seeds;

/// The committed corpus of a target.
pub fn path(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora").join(target.name).with_extension("txt")
}

/// The inputs of a corpus file. Lines that begin with `#` say what the next one shows.
pub fn read(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            unhex(line).ok_or_else(|| io::Error::other(format!("{}: no hexadecimal: {line}", path.display())))
        })
        .collect()
}

/// Writes a corpus file: every input once, short ones first.
pub fn write(path: &Path, inputs: impl IntoIterator<Item = Vec<u8>>) -> io::Result<()> {
    let inputs: BTreeSet<(usize, Vec<u8>)> = inputs.into_iter().map(|input| (input.len(), input)).collect();
    let lines: String = inputs.iter().map(|(_, input)| hex(input) + "\n").collect();
    fs::write(path, lines)
}

/// Writes the target's seeds and its corpus, each input to a file of its own below `directory`.
pub fn unpack(target: &Target, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let inputs = seeds(target).into_iter().chain(read(&path(target))?);
    for (index, input) in inputs.enumerate() {
        fs::write(directory.join(format!("{index:05}")), input)?;
    }
    Ok(())
}

/// Makes the files below `directory` the target's corpus.
pub fn pack(target: &Target, directory: &Path) -> io::Result<()> {
    let files = fs::read_dir(directory)?;
    let inputs: Vec<_> = files.map(|file| fs::read(file?.path())).collect::<io::Result<_>>()?;
    write(&path(target), inputs)
}

/// Runs the inputs in the files that are named on the command line.
pub fn run_files(target: Target) -> io::Result<()> {
    for file in std::env::args_os().skip(1) {
        target.replay(&fs::read(&file)?);
    }
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?) as u8)).collect()
}
