//! The hashes of Kafka's clients, bit for bit.

/// Java's `Utils.murmur2`: 32-bit MurmurHash2 with Kafka's seed.
pub(crate) fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// CRC-32 (IEEE), as librdkafka's `consistent` partitioners.
pub(crate) fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc32_table();
    !data.iter().fold(!0u32, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

/// FNV-1a with Sarama's absolute value at the end.
pub(crate) fn fnv1a(data: &[u8]) -> u32 {
    let hash =
        data.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash as i32).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key, crc32, murmur2 before the mask, fnv1a after the absolute value; from the test suites of librdkafka and Kafka.
    const VECTORS: &[(&str, u32, u32, u32)] = &[
        ("", 0x0000_0000, 0x106e_08d9, 0x7ee3_623b),
        ("kafka", 0x5bbc_7517, 0xd067_cf64, 0x0d33_c4e1),
        ("giberish123456789", 0x7b3a_8e3f, 0x8f55_2b0c, 0x77a5_8295),
        ("1234", 0x9be3_e0a3, 0x9fc9_7b14, 0x023b_dd03),
        ("21", 0xfd77_46b4, 0xc5f2_f8ec, 0x730d_6814),
        ("a", 0xe8b7_be43, 0xa2d0_b27c, 0x1bf3_d6d4),
        ("user-42", 0x7d06_b873, 0x5700_682c, 0x0260_73ab),
        ("\u{e9}", 0x0e04_8d3e, 0x0b24_f487, 0x1e9d_e8c1),
    ];

    /// From `UtilsTest.testMurmur2` of Apache Kafka.
    const JAVA: &[(&str, i32)] = &[
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];

    #[test]
    fn hashes_are_those_of_the_other_clients() {
        for (key, crc, murmur, fnv) in VECTORS {
            assert_eq!(crc32(key.as_bytes()), *crc, "{key}");
            assert_eq!(murmur2(key.as_bytes()), *murmur, "{key}");
            assert_eq!(fnv1a(key.as_bytes()), *fnv, "{key}");
        }
        for (key, hash) in JAVA {
            assert_eq!(murmur2(key.as_bytes()) as i32, *hash, "{key}");
        }
    }
}
