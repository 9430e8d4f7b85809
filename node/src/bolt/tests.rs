//! What is written is read back, by plan; whatever else a file may contain, reading it ends in an error, not a panic.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

type Content = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

fn plan(content: &Content) -> Plan {
    let mut writer = Writer::planning();
    for (name, keys) in content {
        writer.bucket(name);
        keys.iter().for_each(|(key, value)| writer.plan(key, value.len()));
    }
    writer.finish()
}

fn file(content: &Content) -> Bytes {
    let plan = plan(content);
    let mut writer = Writer::new(plan);
    let mut bytes = writer.take();
    for (name, keys) in content {
        writer.bucket(name);
        for (key, value) in keys {
            writer.put(key, value);
            bytes.extend(writer.take());
        }
    }
    assert_eq!(writer.finish(), plan);
    bytes.extend(writer.take());
    assert_eq!(bytes.len() as u64, plan.bytes());
    bytes.into()
}

fn read(file: &Bytes) -> Result<Content, BoltError> {
    let reader = Reader::open(file.clone())?;
    let mut content = Content::new();
    for (name, bucket) in reader.buckets()? {
        let mut keys = BTreeMap::new();
        let mut cursor = reader.walk(&bucket);
        while let Some((key, value)) = cursor.next()? {
            keys.insert(key.to_vec(), value.to_vec());
        }
        content.insert(name.to_vec(), keys);
    }
    Ok(content)
}

/// Small values in many pages, long keys for deep trees, values of several pages.
fn any_content() -> impl Strategy<Value = Content> {
    let key = prop_oneof![vec(any::<u8>(), 1..20), vec(0_u8..3, 1000..1500), vec(0_u8..2, 3000..5000)];
    let value = prop_oneof![vec(any::<u8>(), 0..300), vec(any::<u8>(), 4000..9000)];
    btree_map(vec(any::<u8>(), 1..9), btree_map(key, value, 0..80), 0..5)
}

fn numbered(count: u32) -> Content {
    let keys = (0..count).map(|n| (n.to_be_bytes().to_vec(), vec![7; 40])).collect();
    Content::from([(b"key".to_vec(), keys), (b"lease".to_vec(), BTreeMap::new())])
}

/// Every branch page's number of children.
fn branches(file: &[u8]) -> Vec<u16> {
    let number = |page: &[u8], at| u16::from_le_bytes([page[at], page[at + 1]]);
    let mut found = Vec::new();
    let mut rest = file;
    while !rest.is_empty() {
        if number(rest, 8) == BRANCH {
            found.push(number(rest, 10));
        }
        let overflow = u32::from_le_bytes(rest[12..16].try_into().unwrap()) as usize;
        rest = &rest[(overflow + 1) * 4096..];
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_written_is_read_back(content in any_content()) {
        let file = file(&content);
        prop_assert_eq!(&read(&file).unwrap(), &content);
        prop_assert!(branches(&file).iter().all(|children| *children >= 2));
        let reader = Reader::open(file).unwrap();
        for (name, keys) in &content {
            let bucket = reader.bucket(name).unwrap().unwrap();
            for (key, value) in keys {
                let found = reader.get(&bucket, key).unwrap();
                prop_assert_eq!(found.as_deref(), Some(&value[..]));
                let mut other = key.clone();
                other.push(0);
                let found = reader.get(&bucket, &other).unwrap();
                prop_assert_eq!(found.as_deref(), keys.get(&other).map(|value| &value[..]));
            }
        }
    }

    #[test]
    fn a_cut_or_altered_file_gives_an_error_or_ends(
        content in any_content(),
        cut in any::<prop::sample::Index>(),
        flips in vec((any::<prop::sample::Index>(), 0_u8..8), 1..6),
    ) {
        let whole = file(&content);
        let cut = cut.index(whole.len());
        prop_assert!(read(&whole.slice(..cut)).is_err());
        let mut altered = whole.to_vec();
        for (at, bit) in flips {
            // Mostly where the numbers are: a page's first bytes.
            let at = at.index(altered.len());
            let at = if bit % 2 == 0 { at } else { at / 4096 * 4096 + at % 64 };
            altered[at] ^= 1 << bit;
        }
        let altered = Bytes::from(altered);
        let _ = read(&altered);
        if let Ok(reader) = Reader::open(altered) {
            let bucket = reader.bucket(content.keys().next().map_or(b"", |name| name));
            if let Ok(Some(bucket)) = bucket {
                let _ = reader.get(&bucket, b"some key");
            }
        }
    }
}

#[test]
fn branches_never_have_one_child() {
    // 240 leaves of 4 bytes' keys fill a branch: the numbers around where a second, and a third level begins.
    for count in [1, 50, 51, 10_400, 10_401, 10_460, 10_500, 10_501, 20_900] {
        let content = numbered(count);
        let file = file(&content);
        assert!(branches(&file).iter().all(|children| *children >= 2), "{count} keys: {:?}", branches(&file));
        assert_eq!(read(&file).unwrap(), content);
    }
}

#[test]
fn either_meta_page_may_be_lost() {
    let content = numbered(100);
    for page in 0..2 {
        let mut bytes = file(&content).to_vec();
        bytes[page * 4096 + 20] ^= 1;
        assert_eq!(read(&bytes.clone().into()).unwrap(), content);
        bytes[(1 - page) * 4096 + 30] ^= 1;
        let error = read(&bytes.into()).unwrap_err().to_string();
        assert!(error.starts_with("not a bbolt database: "), "{error}");
    }
}

#[test]
fn errors_name_the_page() {
    let error = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = file(&numbered(300)).to_vec();
        change(&mut bytes);
        read(&bytes.into()).unwrap_err().to_string()
    };
    assert_eq!(error(&|bytes| bytes[4 * 4096] = 9), "page 4 is damaged: it says it is page 9");
    assert_eq!(error(&|bytes| bytes[4 * 4096 + 8] = 4), "page 4 is damaged: neither branch nor leaf but 0x4");
    assert_eq!(error(&|bytes| bytes[4 * 4096 + 12] = 200), "page 4 is damaged: it claims to go on for 200 pages");
    assert_eq!(error(&|bytes| bytes[4 * 4096 + 11] = 1), "page 4 is damaged: 324 elements in 4096 bytes");
    assert_eq!(error(&|bytes| bytes[4 * 4096 + 22] = 1), "page 4 is damaged: element 0 ends at byte 66684 of 4096");
    assert!(error(&|bytes| bytes.truncate(3 * 4096)).starts_with("the file is cut off: 12288 of at least "));
    assert_eq!(error(&|bytes| bytes.truncate(40)), "not a bbolt database: 40 bytes are too short for one");
    // A branch that leads to one of its leaves twice.
    let branch = |bytes: &[u8]| (3..).find(|page| bytes[page * 4096 + 8] == 1).unwrap() * 4096;
    let twice = error(&|bytes| {
        let at = branch(bytes) + 16;
        bytes.copy_within(at + 8..at + 16, at + 24);
    });
    assert_eq!(twice, "page 3 is damaged: keys do not ascend");
    // A branch that leads to itself.
    let cycle = error(&|bytes| {
        let at = branch(bytes);
        bytes.copy_within(at..at + 8, at + 24);
    });
    assert!(cycle.ends_with("a tree too deep"), "{cycle}");
}
