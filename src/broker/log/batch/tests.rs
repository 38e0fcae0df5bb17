use super::*;

/// A batch of `count` uncompressed records with a key and a value of three bytes.
pub(crate) fn batch(count: i32, producer: (i64, i16, i32), keys: bool) -> Bytes {
    let mut bytes = vec![0u8; HEADER_LEN];
    for index in 0..count {
        let mut record = vec![0u8, 0];
        record.push((index as u8) << 1);
        if keys {
            record.extend_from_slice(&[2, b'k']);
        } else {
            record.push(1);
        }
        record.extend_from_slice(&[6, b'v', b'a', b'l', 0]);
        bytes.push((record.len() as u8) << 1);
        bytes.extend_from_slice(&record);
    }
    let length = (bytes.len() - LENGTH_PREFIX) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[27..35].copy_from_slice(&1000i64.to_be_bytes());
    bytes[35..43].copy_from_slice(&1000i64.to_be_bytes());
    bytes[43..51].copy_from_slice(&producer.0.to_be_bytes());
    bytes[51..53].copy_from_slice(&producer.1.to_be_bytes());
    bytes[53..57].copy_from_slice(&producer.2.to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[CHECKSUM_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[cfg(feature = "gzip")]
#[test]
fn a_batch_that_inflates_too_far_is_too_large_not_corrupt() {
    let mut bytes = batch(1, (-1, -1, -1), true)[..HEADER_LEN].to_vec();
    let body = vec![0; INFLATED_MAX + 1];
    let gzip = Compression::Gzip;
    crate::wire::compression::Compressor::default().compress(gzip, Some(1), &body, &mut bytes).unwrap();
    let length = (bytes.len() - LENGTH_PREFIX) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[21..23].copy_from_slice(&1i16.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[CHECKSUM_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let fault = examine(bytes.into(), Depth::Records).fault.unwrap();
    assert_eq!(fault.code, ErrorCode::MESSAGE_TOO_LARGE);
}

#[test]
fn a_good_batch_passes_every_check() {
    let bytes = batch(20, (7, 1, 5), true);
    let head = parse(&bytes).unwrap();
    assert_eq!((head.record_count, head.base_sequence, head.last_sequence()), (20, 5, 24));
    check_crc(&bytes, &head).unwrap();
    assert!(check_records(&bytes[HEADER_LEN..], &head).unwrap().keyless.is_empty());
}

#[test]
fn every_damaged_byte_is_noticed_or_outside_the_checksum() {
    let bytes = batch(3, (-1, -1, -1), true);
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x41;
        let outcome = parse(&damaged).and_then(|head| check_crc(&damaged, &head));
        let free = at < 8 || (12..16).contains(&at);
        assert_eq!(outcome.is_ok(), free, "byte {at}");
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = batch(3, (-1, -1, -1), true);
    for length in 0..bytes.len() {
        assert!(parse(&bytes[..length]).is_err());
    }
    let twice = [&bytes[..], &bytes[..]].concat();
    assert_eq!(parse(&twice).unwrap_err().code, ErrorCode::INVALID_RECORD);
}

#[test]
fn records_without_key_are_named_one_by_one() {
    let bytes = batch(2, (-1, -1, -1), false);
    let head = parse(&bytes).unwrap();
    assert_eq!(check_records(&bytes[HEADER_LEN..], &head).unwrap().keyless, [0, 1]);
    let refusal = examine(bytes, Depth::Records).refused_by_compaction().unwrap();
    assert_eq!(refusal.records.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_codec_that_nobody_can_read_is_refused() {
    for codec in 0..8 {
        let mut bytes = batch(1, (-1, -1, -1), true).to_vec();
        bytes[22] = codec;
        let crc = crc32c::crc32c(&bytes[CHECKSUM_START..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        let expected = match Compression::from_id(codec as i8) {
            Some(Compression::None) => None,
            Some(codec) if codec.is_available() => Some(ErrorCode::CORRUPT_MESSAGE),
            _ => Some(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE),
        };
        let fault = examine(bytes.into(), Depth::Records).fault;
        assert_eq!(fault.map(|refusal| refusal.code), expected, "codec {codec}");
    }
}

#[test]
fn a_small_batch_does_not_keep_what_it_came_in() {
    for records in [1, 100, 1_000, 10_000] {
        let bytes = batch(records, (-1, -1, -1), true);
        let frame = Bytes::from([&[0; 100], &bytes[..]].concat());
        let bytes = frame.slice(100..);
        let small = bytes.len() <= LARGE_BYTES;
        let stored = StoredBatch::place(&bytes, parse(&bytes).unwrap(), 0, 0, None);
        drop(bytes);
        assert_eq!(frame.is_unique(), small, "{} bytes", stored.len());
    }
}

#[test]
fn placing_a_batch_keeps_its_checksum_valid() {
    for count in [1, 60] {
        let bytes = batch(count, (1, 0, 0), true);
        let head = parse(&bytes).unwrap();
        for append_time in [None, Some(5_000)] {
            let placed = StoredBatch::place(&bytes, head, 40, 3, append_time).to_bytes();
            let again = parse(&placed).unwrap();
            assert_eq!((again.base_offset, again.leader_epoch), (40, 3));
            check_crc(&placed, &again).unwrap();
            assert_eq!(again.is_log_append_time(), append_time.is_some());
        }
    }
}

#[test]
fn sequences_wrap() {
    let bytes = batch(10, (1, 0, i32::MAX - 3), true);
    assert_eq!(parse(&bytes).unwrap().last_sequence(), 5);
}
