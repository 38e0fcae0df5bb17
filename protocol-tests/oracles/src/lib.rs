//! Oracles that need C or Java. The suites are in `tests/`.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A program of `java/` that answers questions over its standard streams.
#[derive(Debug)]
pub struct Java {
    child: Child,
    questions: Option<BufWriter<ChildStdin>>,
    answers: BufReader<ChildStdout>,
}

impl Java {
    /// Starts `program`. Needs a JDK and, the first time, Maven.
    pub fn start(program: &str) -> Self {
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/java/run"))
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("java/run can be started");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, questions: Some(BufWriter::new(stdin)), answers: BufReader::new(stdout) }
    }

    /// What the program answers to `what`, a number and bytes: bytes, or what is wrong with the question.
    pub fn ask(&mut self, what: &str, number: i32, input: &[u8]) -> Result<Vec<u8>, String> {
        self.exchange(what, number, input).expect("the Java program runs and answers")
    }

    fn exchange(&mut self, what: &str, number: i32, input: &[u8]) -> io::Result<Result<Vec<u8>, String>> {
        let questions = self.questions.as_mut().expect("open until it is dropped");
        questions.write_all(&(what.len() as u16).to_be_bytes())?;
        questions.write_all(what.as_bytes())?;
        questions.write_all(&number.to_be_bytes())?;
        questions.write_all(&(input.len() as u32).to_be_bytes())?;
        questions.write_all(input)?;
        questions.flush()?;
        let mut len = [0; 4];
        self.answers.read_exact(&mut len)?;
        match usize::try_from(i32::from_be_bytes(len)) {
            Ok(len) => Ok(Ok(self.bytes(len)?)),
            Err(_) => {
                let mut len = [0; 2];
                self.answers.read_exact(&mut len)?;
                let text = self.bytes(u16::from_be_bytes(len).into())?;
                Ok(Err(String::from_utf8_lossy(&text).into_owned()))
            }
        }
    }

    fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.answers.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Java {
    /// The program ends with its input.
    fn drop(&mut self) {
        self.questions = None;
        let _ = self.child.wait();
    }
}
