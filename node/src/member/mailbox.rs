//! Where threads leave each other work: many senders, one receiver that takes everything there at once.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The sending side; clones send to the same receiver.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    inbox: Mutex<Inbox<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct Inbox<T> {
    items: Vec<T>,
    /// The receiver sleeps: only then is waking it worth a system call.
    asleep: bool,
    /// Until when it sleeps if nothing comes; `None`: for ever.
    until: Option<Instant>,
    /// It is to get up although nothing came.
    nudged: bool,
    closed: bool,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Mailbox<T> {
    pub(super) fn new() -> Self {
        let inbox = Inbox { items: Vec::new(), asleep: false, until: None, nudged: false, closed: false };
        Self { shared: Arc::new(Shared { inbox: Mutex::new(inbox), arrived: Condvar::new() }) }
    }

    pub(super) fn send(&self, item: T) {
        self.send_all(std::iter::once(item));
    }

    pub(super) fn send_all(&self, items: impl IntoIterator<Item = T>) {
        let mut inbox = self.lock();
        inbox.items.extend(items);
        self.wake_if(inbox, |_| true);
    }

    /// Leaves items for the receiver without waking it: the caller takes them itself, or calls [`Mailbox::wake`].
    pub(super) fn leave(&self, items: impl IntoIterator<Item = T>) {
        self.lock().items.extend(items);
    }

    /// Wakes the receiver if there is something for it.
    pub(super) fn wake(&self) {
        self.wake_if(self.lock(), |inbox| !inbox.items.is_empty());
    }

    /// Wakes the receiver if it sleeps beyond `deadline`, though nothing came.
    pub(super) fn wake_by(&self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        let mut inbox = self.lock();
        inbox.nudged = inbox.asleep && inbox.until.is_none_or(|until| until > deadline);
        self.wake_if(inbox, |inbox| inbox.nudged);
    }

    fn wake_if(&self, mut inbox: MutexGuard<'_, Inbox<T>>, condition: impl FnOnce(&Inbox<T>) -> bool) {
        let wake = condition(&inbox) && mem::take(&mut inbox.asleep);
        drop(inbox);
        if wake {
            self.shared.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox<T>> {
        self.shared.inbox.lock().expect("no holder of this lock panics")
    }

    /// The receiver gets what is there and then learns that nothing more comes.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.shared.arrived.notify_one();
    }

    /// Moves everything there to the empty `into`, waiting for it until `deadline` (`None`: for ever). False once the
    /// mailbox is closed and empty.
    pub(super) fn receive(&self, into: &mut Vec<T>, deadline: Option<Instant>) -> bool {
        let goes_on = self.wait(deadline);
        self.take(into);
        goes_on
    }

    /// Moves what is there to the empty `into`.
    pub(super) fn take(&self, into: &mut Vec<T>) {
        mem::swap(&mut self.lock().items, into);
    }

    /// Waits until something is there or `deadline` (`None`: for ever) has come. False once the mailbox is closed and
    /// empty.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut inbox = self.lock();
        loop {
            if mem::take(&mut inbox.nudged) || !inbox.items.is_empty() {
                return true;
            }
            if inbox.closed {
                return false;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return true;
            }
            (inbox.asleep, inbox.until) = (true, deadline);
            // A day stands for "for ever": the loop goes around.
            let left = left.unwrap_or(Duration::from_secs(86_400));
            inbox = self.shared.arrived.wait_timeout(inbox, left).expect("no holder of this lock panics").0;
            inbox.asleep = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_mailbox_gives_out_what_it_holds_first() {
        let mailbox = Mailbox::new();
        mailbox.send_all([1, 2]);
        mailbox.close();
        let mut items = Vec::new();
        assert!(mailbox.receive(&mut items, None));
        assert_eq!(items, [1, 2]);
        items.clear();
        assert!(!mailbox.receive(&mut items, None));
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let mailbox = Mailbox::<u8>::new();
        let mut items = Vec::new();
        assert!(mailbox.receive(&mut items, Some(Instant::now() + Duration::from_millis(1))));
        assert!(items.is_empty());
    }
}
