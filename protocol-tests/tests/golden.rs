//! What other implementations wrote, read and written again: the same bytes, or the reason why not.

use protocol_tests::golden;

use crate::messages::codecs;

#[test]
fn messages_of_java_are_written_as_they_were_read() {
    let messages = golden::messages();
    for message in &messages {
        let (name, version) = (&message.name, message.version);
        let (again, left) = codecs::carafe(name, version, message.bytes.clone())
            .unwrap_or_else(|error| panic!("{}: {error}", message.origin));
        assert_eq!((&again[..], left), (&message.bytes[..], 0), "{}: {name} {version}", message.origin);
    }
    assert!(messages.len() >= 2900, "{} messages", messages.len());
}
