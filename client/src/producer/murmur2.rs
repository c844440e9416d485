//! MurmurHash2, 32 bits, as Kafka's clients hash keys: `org.apache.kafka.common.utils.Utils.murmur2` of the Java client
//! (A. Appleby's algorithm with the seed below), made positive by clearing the sign bit.

const SEED: u32 = 0x9747_b28c;
const FACTOR: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

/// The partition to which Kafka's Java client sends a record with that key; `partitions` is at least 1.
#[inline]
pub(super) fn partition(key: &[u8], partitions: u32) -> u32 {
    (hash(key) & 0x7fff_ffff) % partitions
}

fn hash(bytes: &[u8]) -> u32 {
    // Java's lengths are 32 bits.
    let mut hash = SEED ^ bytes.len() as u32;
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    for word in words {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let mut mixed = word.wrapping_mul(FACTOR);
        mixed ^= mixed >> SHIFT;
        hash = hash.wrapping_mul(FACTOR) ^ mixed.wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        for (byte, shift) in rest.iter().zip([0, 8, 16]) {
            hash ^= u32::from(*byte) << shift;
        }
        hash = hash.wrapping_mul(FACTOR);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kafka_s_java_client() {
        // The values of Kafka's own UtilsTest.testMurmur2, which its other clients test against, too.
        for (key, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(hash(key.as_bytes()).cast_signed(), expected, "{key}");
        }
    }

    #[test]
    fn a_partition_is_the_positive_hash_modulo_their_number() {
        // -790_332_482 & 0x7fffffff = 1_357_151_166
        assert_eq!(partition(b"foobar", 1000), 166);
        assert_eq!(partition(b"abc", 1000), 107);
        assert_eq!(partition(b"", 1), 0);
    }
}
