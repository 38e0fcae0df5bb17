//! Whether a node answers, and what it offers: a few requests in raw bytes, so that a fault of the client under test cannot hide here.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Far above any answer to the requests below.
const MAX_FRAME: usize = 1 << 20;

const API_VERSIONS: (i16, i16) = (18, 0);
const METADATA: (i16, i16) = (3, 4);
const FIND_COORDINATOR: (i16, i16) = (10, 1);

/// One connection to the node on `port` of this machine.
#[derive(Debug)]
pub(super) struct Probe {
    stream: TcpStream,
    correlation: i32,
}

impl Probe {
    /// Connects and asks for ApiVersions, which a node answers once it is registered and unfenced.
    pub(super) fn connect(port: u16) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut probe = Self { stream, correlation: 0 };
        let mut answer = Answer(&probe.ask(API_VERSIONS, &[])?);
        match answer.i16()? {
            0 => Ok(probe),
            code => Err(invalid(format!("ApiVersions answered error {code}"))),
        }
    }

    /// The APIs that the node offers: key, lowest and highest version.
    pub(super) fn versions(&mut self) -> io::Result<Vec<(i16, i16, i16)>> {
        let frame = self.ask(API_VERSIONS, &[])?;
        let mut answer = Answer(&frame);
        answer.i16()?; // no error, as before
        let count = answer.i32()?;
        let mut versions = Vec::new();
        for _ in 0..count {
            versions.push((answer.i16()?, answer.i16()?, answer.i16()?));
        }
        versions.sort_unstable();
        Ok(versions)
    }

    /// The ids of the brokers the node knows, ascending.
    pub(super) fn brokers(&mut self) -> io::Result<Vec<i32>> {
        // No topics, no creation.
        let frame = self.ask(METADATA, &[0, 0, 0, 0, 0])?;
        brokers(&frame)
    }

    /// Looks up the coordinator of a group, which creates the offsets topic; whether there is one.
    pub(super) fn coordinator_ready(&mut self) -> io::Result<bool> {
        let frame = self.ask(FIND_COORDINATOR, b"\0\x05ready\0")?;
        let mut answer = Answer(&frame);
        answer.take(4)?; // throttle time
        Ok(answer.i16()? == 0)
    }

    /// Sends one request and gives the answer without size and header.
    fn ask(&mut self, (key, version): (i16, i16), body: &[u8]) -> io::Result<Vec<u8>> {
        self.correlation += 1;
        self.stream.write_all(&request(key, version, self.correlation, body))?;
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let size = usize::try_from(i32::from_be_bytes(size)).map_err(|_| invalid("negative frame size"))?;
        if !(4..=MAX_FRAME).contains(&size) {
            return Err(invalid(format!("frame of {size} bytes")));
        }
        let mut frame = vec![0; size];
        self.stream.read_exact(&mut frame)?;
        if frame[..4] != self.correlation.to_be_bytes() {
            return Err(invalid("answer to another request"));
        }
        Ok(frame.split_off(4))
    }
}

fn request(key: i16, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let client = b"probe";
    let mut frame = Vec::new();
    frame.extend(key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(correlation.to_be_bytes());
    frame.extend((client.len() as i16).to_be_bytes());
    frame.extend(client);
    frame.extend(body);
    let mut request = (frame.len() as i32).to_be_bytes().to_vec();
    request.append(&mut frame);
    request
}

/// Broker ids of a Metadata answer, version 4.
fn brokers(frame: &[u8]) -> io::Result<Vec<i32>> {
    let mut answer = Answer(frame);
    answer.take(4)?; // throttle time
    let count = answer.i32()?;
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(answer.i32()?);
        answer.string()?; // host
        answer.take(4)?; // port
        answer.string()?; // rack
    }
    ids.sort_unstable();
    Ok(ids)
}

struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length).ok_or_else(|| invalid("short answer"))?;
        self.0 = tail;
        Ok(head)
    }

    fn i16(&mut self) -> io::Result<i16> {
        let bytes = self.take(2)?;
        Ok(i16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn i32(&mut self) -> io::Result<i32> {
        let bytes = self.take(4)?;
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A nullable string, skipped.
    fn string(&mut self) -> io::Result<()> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        self.take(length).map(drop)
    }
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_bytes() {
        let expected = b"\0\0\0\x10\0\x12\0\0\0\0\0\x07\0\x05probe\xaa";
        assert_eq!(request(18, 0, 7, &[0xaa]), expected);
    }

    #[test]
    fn metadata_answer() {
        let mut frame = b"\0\0\0\0\0\0\0\x02".to_vec();
        frame.extend(b"\0\0\0\x02\0\x09127.0.0.1\0\0\x23\x85\xff\xff");
        frame.extend(b"\0\0\0\x01\0\x09127.0.0.1\0\0\x23\x84\0\x01r");
        assert_eq!(brokers(&frame).unwrap(), [1, 2]);
        for length in 0..frame.len() {
            assert!(brokers(&frame[..length]).is_err(), "{length}");
        }
        assert!(brokers(b"\0\0\0\0\x7f\xff\xff\xff").is_err());
    }
}
