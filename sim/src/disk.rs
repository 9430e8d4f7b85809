//! A member's log disk: it forgets what was not synced, in pages, torn at sectors, and names that no folder sync kept.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use quorate_core::format::wal;
use quorate_core::rng::Rng;
use quorate_node::disk::Disk;

use crate::trace::Digest;

const PAGE: usize = 4_096;
const SECTOR: usize = 512;

/// What a disk may be told to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ill {
    /// The next sync fails: of what it should have made durable any page may be, and the system takes all of it for clean.
    Sync,
    /// The next write fails: any first part of it may have happened.
    Write,
    /// The next read of a file fails.
    Read,
}

/// What is done before the process dies of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fuse {
    /// After so many more changes the next one does not happen.
    left: u32,
    /// It has not.
    blown: bool,
}

/// What was done to a file since its last sync.
#[derive(Clone, Debug)]
enum Change {
    Write {
        offset: usize,
        bytes: Vec<u8>,
    },
    /// Cut or extended with zeros.
    Resize(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    /// What programs read.
    current: Vec<u8>,
    /// What a power cut is sure to leave.
    durable: Vec<u8>,
    /// `current` is `durable` after these.
    pending: Vec<Change>,
    /// Bytes up to here were written and synced...
    synced: usize,
    /// ...and up to here they were so when something was written after them.
    followed: usize,
}

impl File {
    fn write(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
        if image.len() < offset + bytes.len() {
            image.resize(offset + bytes.len(), 0);
        }
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn apply(image: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write { offset, bytes } => Self::write(image, *offset, bytes),
            Change::Resize(len) => image.resize(*len, 0),
        }
    }

    fn change(&mut self, change: Change) {
        Self::apply(&mut self.current, &change);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            if let Change::Write { offset, bytes } = &change {
                self.synced = self.synced.max(offset + bytes.len());
            }
            Self::apply(&mut self.durable, &change);
        }
    }

    /// A sync fails: any pages may have got there, and nothing will be written again by itself.
    fn sync_failed(&mut self, rng: &mut Rng) {
        let mood = rng.below(3);
        let image = self.current.clone();
        self.durable.resize(image.len(), 0);
        for from in (0..image.len()).step_by(PAGE) {
            let to = (from + PAGE).min(image.len());
            if mood == 1 || (mood == 2 && rng.chance(1, 2)) {
                self.durable[from..to].copy_from_slice(&image[from..to]);
            }
        }
        self.pending.clear();
    }

    /// Bytes `from..to` as they were after the first `count` pending changes, zeros beyond the end of that time.
    fn version(&self, from: usize, to: usize, count: usize) -> Vec<u8> {
        let mut image = vec![0; to - from];
        let durable = self.durable.get(from..).unwrap_or_default();
        let kept = durable.len().min(to - from);
        image[..kept].copy_from_slice(&durable[..kept]);
        for change in &self.pending[..count] {
            match change {
                Change::Write { offset, bytes } => {
                    let (start, end) = ((*offset).max(from), (offset + bytes.len()).min(to));
                    if start < end {
                        image[start - from..end - from].copy_from_slice(&bytes[start - offset..end - offset]);
                    }
                }
                Change::Resize(len) if *len < to => image[len.saturating_sub(from)..].fill(0),
                Change::Resize(_) => {}
            }
        }
        image
    }

    /// The power goes: every page is left as of any moment since the last sync, perhaps torn.
    fn power_cut(&mut self, rng: &mut Rng) -> u64 {
        // Without pending changes the two may differ still: after a failed sync.
        if self.pending.is_empty() && self.current == self.durable {
            return 0;
        }
        let moments = self.pending.len() as u64 + 1;
        let mood = rng.below(4);
        let moment = |rng: &mut Rng| match mood {
            0 => 0,
            1 => usize::try_from(moments - 1).expect("few changes"),
            _ => usize::try_from(rng.below(moments)).expect("few changes"),
        };
        let mut lens = vec![self.durable.len()];
        for change in &self.pending {
            let last = lens[lens.len() - 1];
            lens.push(match change {
                Change::Write { offset, bytes } => last.max(offset + bytes.len()),
                Change::Resize(len) => *len,
            });
        }
        let len = lens[moment(rng)];
        let mut image = Vec::with_capacity(len);
        while image.len() < len {
            let (from, to) = (image.len(), (image.len() + PAGE).min(len));
            if !self.touched(from, from + PAGE) {
                image.extend(self.version(from, to, 0));
            } else if mood == 3 && rng.chance(1, 3) {
                for start in (from..to).step_by(SECTOR) {
                    image.extend(self.version(start, (start + SECTOR).min(to), moment(rng)));
                }
            } else {
                image.extend(self.version(from, to, moment(rng)));
            }
        }
        let lost = self.current.len().abs_diff(image.len())
            + self.current.iter().zip(&image).filter(|(before, after)| before != after).count();
        // What was written last may be gone, and with it the proof that what came before had been synced.
        *self = Self { current: image.clone(), durable: image, synced: self.synced, ..Self::default() };
        lost as u64
    }

    fn touched(&self, from: usize, to: usize) -> bool {
        self.pending.iter().any(|change| match change {
            Change::Write { offset, bytes } => *offset < to && from < offset + bytes.len(),
            Change::Resize(len) => *len < to,
        })
    }
}

/// What was done to the folder since its last sync.
#[derive(Clone, Debug)]
enum Naming {
    Bind(String, u64),
    Remove(String),
    Rename { from: String, to: String, file: u64 },
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Bind(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename { from, to, file } => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Platter {
    files: BTreeMap<u64, File>,
    created: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    namings: Vec<Naming>,
    digest: Digest,
    ills: BTreeMap<Ill, Rng>,
    /// So many bytes more there is room for, if it is nearly full.
    room: Option<usize>,
    fuse: Option<Fuse>,
}

impl Platter {
    /// Something is about to be changed.
    fn change(&mut self) -> io::Result<()> {
        let Some(fuse) = &mut self.fuse else { return Ok(()) };
        if fuse.left == 0 {
            fuse.blown = true;
            return Err(io::Error::other("the process dies here"));
        }
        fuse.left -= 1;
        Ok(())
    }

    fn ill(&mut self, ill: Ill) -> Option<Rng> {
        let rng = self.ills.remove(&ill)?;
        self.digest.number(ill as u64 + 77);
        Some(rng)
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        let id = self.names.get(name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))?;
        Ok(self.files.get_mut(id).expect("a name stands for a file"))
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.namings.push(naming);
    }

    fn collect(&mut self) {
        let named: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        let pending: BTreeSet<u64> = self
            .namings
            .iter()
            .filter_map(|naming| match naming {
                Naming::Bind(_, file) | Naming::Rename { file, .. } => Some(*file),
                Naming::Remove(_) => None,
            })
            .collect();
        self.files.retain(|id, _| named.contains(id) || pending.contains(id));
    }
}

/// A folder of simulated files. Clones are handles of the same disk: one for the log, one for the world.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Rc<RefCell<Platter>>);

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The power goes: of every unsynced page any version since the last sync remains, of every unsynced name any. Gives the
    /// number of bytes that differ from what programs last read.
    pub fn power_cut(&self, rng: &mut Rng) -> u64 {
        let platter = &mut *self.0.borrow_mut();
        let mut names = std::mem::take(&mut platter.durable_names);
        let before = std::mem::take(&mut platter.names);
        let all = rng.chance(1, 3);
        for naming in platter.namings.drain(..) {
            if all || rng.chance(1, 2) {
                naming.apply(&mut names);
            }
        }
        let mut lost = 0;
        for file in platter.files.values_mut() {
            lost += file.power_cut(rng);
        }
        for (name, id) in &before {
            if names.get(name) != Some(id) {
                lost += platter.files[id].current.len() as u64;
            }
        }
        platter.durable_names = names.clone();
        platter.names = names;
        platter.collect();
        platter.digest.number(lost);
        lost
    }

    /// The disk is replaced by an empty one.
    pub fn wipe(&self) {
        let digest = self.0.borrow().digest;
        *self.0.borrow_mut() = Platter { digest, ..Platter::default() };
    }

    /// Something will go wrong, once; how much of it is drawn from `rng`.
    pub fn ail(&self, ill: Ill, rng: Rng) {
        self.0.borrow_mut().ills.insert(ill, rng);
    }

    /// There is room for so many bytes more, whatever is removed; or for any number again.
    pub fn set_room(&self, room: Option<u64>) {
        self.0.borrow_mut().room = room.map(|bytes| usize::try_from(bytes).expect("a file fits into memory"));
    }

    /// The process will die instead of making the change after the next `changes`.
    pub fn set_fuse(&self, changes: u32) {
        self.0.borrow_mut().fuse = Some(Fuse { left: changes, blown: false });
    }

    /// Whether the process was to die just now; it is not any more.
    pub fn fuse_blew(&self) -> bool {
        self.0.borrow_mut().fuse.take_if(|fuse| fuse.blown).is_some()
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let platter = &mut *self.0.borrow_mut();
        platter.ills.clear();
        (platter.room, platter.fuse) = (None, None);
    }

    /// A hash over everything ever done to the disk.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.0.borrow().digest.get()
    }

    /// Whether a power cut now could lose anything.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let platter = self.0.borrow();
        !platter.namings.is_empty() || platter.files.values().any(|file| !file.pending.is_empty())
    }

    /// A bit rots, or a sector is found to hold what belongs elsewhere: bytes that were synced before something else was
    /// written behind them, so that their loss can be proven. False if there are none.
    pub fn rot(&self, rng: &mut Rng) -> bool {
        let platter = self.0.borrow();
        // Of the newest segment: older ones may be needed no more.
        let segments = platter.names.keys().filter(|name| wal::sequence(name).is_some());
        let Some(name) = segments.max_by_key(|name| wal::sequence(name)).cloned() else { return false };
        let followed = platter.files[&platter.names[&name]].followed;
        drop(platter);
        if followed < 64 {
            return false;
        }
        // Bits rot at rest: what was in the cache has long been written.
        let platter = &mut *self.0.borrow_mut();
        platter.files.values_mut().for_each(File::sync);
        platter.durable_names.clone_from(&platter.names);
        platter.namings.clear();
        // Behind the version, which would be that of a newer build; and not in the padding of a frame to 8 bytes, which
        // says nothing.
        let mut below = |bound: usize| usize::try_from(rng.below(bound as u64)).expect("a file fits into memory");
        let offset = 16 + 8 * below(followed / 8 - 2);
        let (bit, misplaced) = (1_u8 << below(8), below(3) == 0);
        let elsewhere = SECTOR * below(followed.div_ceil(SECTOR));
        let file = platter.file(&name).expect("just seen");
        let start = offset / SECTOR * SECTOR;
        let (from, to) = (start.max(16), (start + SECTOR).min(followed));
        let other: Vec<u8> = (from..to).map(|at| file.current[(elsewhere + at - start).min(followed - 1)]).collect();
        if misplaced && other != file.current[from..to] {
            file.current[from..to].copy_from_slice(&other);
        } else {
            file.current[offset] ^= bit;
        }
        file.durable.clone_from(&file.current);
        true
    }
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "the disk is full")
}

impl Disk for SimDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().names.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        if self.0.borrow_mut().ill(Ill::Read).is_some() {
            return Err(io::Error::other("the disk cannot read this"));
        }
        Ok(self.0.borrow_mut().file(name)?.current.clone())
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let platter = &mut *self.0.borrow_mut();
        platter.change()?;
        let len = usize::try_from(bytes).expect("a file fits into memory");
        if let Some(room) = &mut platter.room {
            *room = room.checked_sub(len).ok_or_else(full)?;
        }
        platter.created += 1;
        let (id, mut file) = (platter.created, File::default());
        if bytes > 0 {
            file.change(Change::Resize(len));
        }
        platter.files.insert(id, file);
        platter.name(Naming::Bind(name.to_owned(), id));
        platter.digest.text(name).number(bytes);
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let platter = &mut *self.0.borrow_mut();
        platter.digest.text(name).number(offset).bytes(bytes);
        let offset = usize::try_from(offset).expect("a file fits into memory");
        platter.change()?;
        let (ill, left) = (platter.ill(Ill::Write), platter.room);
        let file = platter.file(name)?;
        let len = file.current.len();
        let room = left.map_or(bytes.len(), |left| (len + left).saturating_sub(offset).min(bytes.len()));
        let fits = match ill {
            Some(mut rng) if !bytes.is_empty() => usize::try_from(rng.below(bytes.len() as u64)).expect("a part"),
            _ => room,
        };
        // Of a write that failed there may be too little to prove anything.
        if offset >= file.synced && fits == bytes.len() {
            file.followed = file.synced;
        }
        file.change(Change::Write { offset, bytes: bytes[..fits].to_vec() });
        let taken = file.current.len() - len;
        platter.room = left.map(|left| left.saturating_sub(taken));
        match fits.cmp(&bytes.len()) {
            Ordering::Less if room < bytes.len() => Err(full()),
            Ordering::Less => Err(io::Error::other("the disk cannot write this")),
            _ => Ok(()),
        }
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let platter = &mut *self.0.borrow_mut();
        platter.digest.text(name).number(bytes);
        let len = usize::try_from(bytes).expect("a file fits into memory");
        platter.change()?;
        let file = platter.file(name)?;
        let len = len.min(file.current.len());
        file.change(Change::Resize(len));
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let platter = &mut *self.0.borrow_mut();
        platter.digest.text(name);
        platter.change()?;
        let ill = platter.ill(Ill::Sync);
        let file = platter.file(name)?;
        match ill {
            Some(mut rng) => {
                file.sync_failed(&mut rng);
                Err(io::Error::other("the disk cannot sync this"))
            }
            None => {
                file.sync();
                Ok(())
            }
        }
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        let platter = &mut *self.0.borrow_mut();
        platter.digest.number(1);
        platter.change()?;
        platter.durable_names = platter.names.clone();
        platter.namings.clear();
        platter.collect();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let platter = &mut *self.0.borrow_mut();
        platter.change()?;
        let renamed = platter.file(from)?;
        // A file that is used again holds remains of its former use.
        (renamed.synced, renamed.followed) = (0, 0);
        let file = platter.names[from];
        platter.digest.text(from).text(to);
        platter.name(Naming::Rename { from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let platter = &mut *self.0.borrow_mut();
        platter.file(name)?;
        platter.change()?;
        platter.digest.text(name);
        platter.name(Naming::Remove(name.to_owned()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(bytes: &[u8]) -> SimDisk {
        let mut disk = SimDisk::new();
        disk.create("a", 0).unwrap();
        disk.write_at("a", 0, bytes).unwrap();
        disk.sync("a").unwrap();
        disk.sync_dir().unwrap();
        disk
    }

    #[test]
    fn synced_bytes_and_names_survive_every_power_cut() {
        for seed in 0..200 {
            let mut disk = disk_with(&[7; 10_000]);
            disk.write_at("a", 8_192, &[8; 9_000]).unwrap();
            disk.power_cut(&mut Rng::new(seed));
            let bytes = disk.read("a").unwrap();
            assert!(bytes.len() >= 10_000);
            assert!(bytes[..8_192].iter().all(|&byte| byte == 7));
            assert!(bytes[8_192..10_000].iter().all(|&byte| byte == 7 || byte == 8));
        }
    }

    #[test]
    fn unsynced_pages_survive_in_any_combination_and_torn_at_sectors() {
        let (mut holes, mut torn, mut all, mut none, mut middle) = (false, false, false, false, false);
        for seed in 0..500 {
            let mut disk = disk_with(&[7; 3 * PAGE]);
            disk.write_at("a", 0, &[8; 3 * PAGE]).unwrap();
            disk.write_at("a", 0, &[9; 3 * PAGE]).unwrap();
            disk.power_cut(&mut Rng::new(seed));
            let bytes = disk.read("a").unwrap();
            let sectors: Vec<u8> = bytes.chunks(SECTOR).map(|sector| sector[0]).collect();
            assert!(bytes.chunks(SECTOR).all(|sector| sector.iter().all(|&byte| byte == sector[0])));
            let pages: Vec<&[u8]> = sectors.chunks(PAGE / SECTOR).collect();
            torn |= pages.iter().any(|page| page.iter().any(|&sector| sector != page[0]));
            holes |= pages[0][0] == 7 && pages[2][0] == 9;
            middle |= pages[1].iter().all(|&sector| sector == 8);
            all |= sectors.iter().all(|&sector| sector == 9);
            none |= sectors.iter().all(|&sector| sector == 7);
        }
        assert!(holes && torn && all && none && middle, "{holes} {torn} {all} {none} {middle}");
    }

    #[test]
    fn a_created_file_may_vanish_until_the_folder_is_synced() {
        let mut survived = BTreeSet::new();
        for seed in 0..100 {
            let mut disk = disk_with(b"old");
            disk.create("b", 0).unwrap();
            disk.write_at("b", 0, b"new").unwrap();
            disk.sync("b").unwrap();
            disk.rename("b", "a").unwrap();
            disk.power_cut(&mut Rng::new(seed));
            let names = disk.list().unwrap();
            let mut read = |name: &str| disk.read(name).unwrap();
            survived.insert(names.iter().map(|name| (name.clone(), read(name))).collect::<Vec<_>>());
        }
        assert_eq!(survived.len(), 3, "old alone, old beside new, new alone: {survived:?}");
    }

    #[test]
    fn a_dead_process_loses_nothing_until_the_power_goes() {
        let mut disk = disk_with(b"old");
        disk.write_at("a", 0, b"new").unwrap();
        let mut reopened = disk.clone();
        drop(disk);
        assert_eq!(reopened.read("a").unwrap(), b"new");
        assert!(reopened.is_dirty());
    }

    #[test]
    fn a_bit_rots_only_where_its_loss_can_be_proven() {
        let mut disk = SimDisk::new();
        let name = wal::file_name(1);
        disk.create(&name, 0).unwrap();
        disk.write_at(&name, 0, &[7; 100]).unwrap();
        disk.sync(&name).unwrap();
        assert!(!disk.rot(&mut Rng::new(1)), "nothing was written behind it");
        disk.ail(Ill::Write, Rng::new(1));
        disk.write_at(&name, 100, &[7; 100]).unwrap_err();
        assert!(!disk.rot(&mut Rng::new(1)), "nobody knows how much was written behind it");
        disk.write_at(&name, 100, &[7; 100]).unwrap();
        assert!(disk.rot(&mut Rng::new(1)));
        let wrong: Vec<usize> = (0..200).filter(|at| disk.read(&name).unwrap()[*at] != 7).collect();
        assert!(wrong.len() == 1 && wrong[0] < 100, "{wrong:?}");
    }

    #[test]
    fn what_a_failed_sync_left_out_stays_readable_until_the_power_goes_and_is_never_written_by_itself() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..50 {
            let mut disk = disk_with(&[7; 100]);
            disk.write_at("a", 0, &[8; 100]).unwrap();
            disk.ail(Ill::Sync, Rng::new(seed));
            disk.sync("a").unwrap_err();
            assert_eq!(disk.read("a").unwrap(), [8; 100]);
            disk.sync("a").unwrap();
            disk.power_cut(&mut Rng::new(seed));
            match disk.read("a").unwrap()[0] {
                7 => lost += 1,
                _ => kept += 1,
            }
        }
        assert!(kept > 5 && lost > 5, "{kept} {lost}");
    }

    #[test]
    fn a_full_disk_takes_only_what_has_its_room_already() {
        let mut disk = disk_with(&[7; 100]);
        disk.set_room(Some(0));
        disk.write_at("a", 50, &[8; 50]).unwrap();
        assert_eq!(disk.write_at("a", 90, &[9; 20]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.create("b", 10).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read("a").unwrap().len(), 100);
        disk.set_room(Some(7));
        assert_eq!(disk.create("b", 10).unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.create("b", 0).unwrap();
        disk.write_at("b", 0, &[6; 4]).unwrap();
        assert_eq!(disk.write_at("b", 4, &[6; 4]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read("b").unwrap(), [6; 7], "as much as fits");
        disk.heal();
        disk.write_at("a", 90, &[9; 20]).unwrap();
    }

    #[test]
    fn a_fuse_blows_at_its_change_and_not_before() {
        let mut disk = disk_with(&[7; 100]);
        disk.set_fuse(2);
        disk.write_at("a", 0, &[8]).unwrap();
        disk.sync("a").unwrap();
        assert!(!disk.fuse_blew());
        disk.write_at("a", 0, &[9]).unwrap_err();
        assert!(disk.fuse_blew() && !disk.fuse_blew());
        assert_eq!(disk.read("a").unwrap()[0], 8);
    }

    #[test]
    fn a_cut_file_may_come_back() {
        let mut lens = BTreeSet::new();
        for seed in 0..100 {
            let mut disk = disk_with(&[7; 100]);
            disk.truncate("a", 10).unwrap();
            disk.power_cut(&mut Rng::new(seed));
            lens.insert(disk.read("a").unwrap().len());
        }
        assert_eq!(lens, [10, 100].into());
    }
}
