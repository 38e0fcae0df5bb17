//! Moves corpora between the files that are committed and the directories that libFuzzer works in.

use std::io;
use std::path::Path;

use carafe_fuzz::{corpus, target};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["unpack", name, directory] => corpus::unpack(&target(name), Path::new(directory)),
        ["pack", name, directory] => corpus::pack(&target(name), Path::new(directory)),
        _ => Err(io::Error::other("usage: corpus unpack|pack TARGET DIRECTORY")),
    }
}
