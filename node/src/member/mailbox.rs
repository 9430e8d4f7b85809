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
    /// It is to get up by then although nothing came; noted while it is awake, too.
    wake_at: Option<Instant>,
    closed: bool,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Mailbox<T> {
    pub(super) fn new() -> Self {
        let inbox = Inbox { items: Vec::new(), asleep: false, wake_at: None, closed: false };
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

    /// Lets the receiver's wait end by `deadline`, the one it is in or the next, though nothing came.
    pub(super) fn wake_by(&self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        let mut inbox = self.lock();
        let is_earlier = inbox.wake_at.is_none_or(|at| deadline < at);
        if is_earlier {
            inbox.wake_at = Some(deadline);
        }
        self.wake_if(inbox, |_| is_earlier);
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
        inbox.wake_at = [inbox.wake_at, deadline].into_iter().flatten().min();
        loop {
            let left = inbox.wake_at.map(|at| at.saturating_duration_since(Instant::now()));
            if !inbox.items.is_empty() || left.is_some_and(|left| left.is_zero()) {
                inbox.wake_at = None;
                return true;
            }
            if inbox.closed {
                return false;
            }
            inbox.asleep = true;
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

    /// Whoever takes a turn in the receiver's place may be done before it sleeps, or twice before it has got up.
    #[test]
    fn a_call_to_wake_is_not_forgotten() {
        let mailbox = Mailbox::<u8>::new();
        let mut items = Vec::new();
        mailbox.wake_by(Some(Instant::now()));
        mailbox.wake_by(Some(Instant::now() + Duration::from_secs(3600)));
        assert!(mailbox.receive(&mut items, None), "the earlier one counts, although nobody slept");

        let sleeper = std::thread::spawn({
            let mailbox = mailbox.clone();
            move || mailbox.wait(None)
        });
        while !mailbox.lock().asleep {
            std::thread::yield_now();
        }
        mailbox.wake_by(Some(Instant::now()));
        mailbox.wake_by(Some(Instant::now() + Duration::from_secs(3600)));
        assert!(sleeper.join().unwrap());
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let mailbox = Mailbox::<u8>::new();
        let mut items = Vec::new();
        assert!(mailbox.receive(&mut items, Some(Instant::now() + Duration::from_millis(1))));
        assert!(items.is_empty());
    }
}
