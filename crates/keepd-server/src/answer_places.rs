//! Places for the answers to the requests of a stream: no request is read unless its answer has a
//! place, so the memory of unread answers is bounded.
//!
//! A client that reads its answers should never be held up by this. So a stream has places of its
//! own, and may borrow many more from those that all streams share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tonic::Status;

use crate::unfinished::Share;

/// Places that every stream has for itself.
const OWN: usize = 1024;
/// Places that one stream may borrow, and all streams together: about 100 bytes each.
const BORROWED_MAX: usize = 64 * 1024;
const SHARED: usize = 1024 * 1024;
/// BOUND: answers that may wait on one stream.
pub(crate) const ANSWERS_MAX: usize = OWN + BORROWED_MAX;

/// The places that streams borrow.
pub(crate) fn shared() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(SHARED))
}

/// The places of one stream.
#[derive(Debug)]
pub(crate) struct AnswerPlaces {
    own: Semaphore,
    shared: Arc<Semaphore>,
    borrowed: AtomicUsize,
    connection: Arc<Share>,
}

impl AnswerPlaces {
    /// All free, borrowing from `shared`.
    pub(crate) fn new(shared: Arc<Semaphore>, connection: Arc<Share>) -> Self {
        let (own, borrowed) = (Semaphore::new(OWN), AtomicUsize::new(0));
        Self { own, shared, borrowed, connection }
    }

    /// Takes a place for the answer to a request. Waits while the client has too many answers to
    /// read, and fails if too many streams wait like this.
    pub(crate) async fn reserve(&self) -> Result<(), Status> {
        if let Ok(place) = self.own.try_acquire() {
            place.forget();
            return Ok(());
        }
        if self.borrowed.load(Ordering::Acquire) < BORROWED_MAX
            && let Ok(place) = self.shared.try_acquire()
        {
            place.forget();
            self.borrowed.fetch_add(1, Ordering::AcqRel);
            return Ok(());
        }
        let _unread = self.connection.wait_unread()?;
        self.own.acquire().await.expect("nobody closes it").forget();
        Ok(())
    }

    /// Frees a place: one of its own first, since a request may wait for one.
    pub(crate) fn free(&self) {
        if self.own.available_permits() < OWN {
            return self.own.add_permits(1);
        }
        let one_less = |borrowed: usize| borrowed.checked_sub(1);
        let given_back = self.borrowed.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        if given_back.is_ok() {
            self.shared.add_permits(1);
        }
    }
}

impl Drop for AnswerPlaces {
    fn drop(&mut self) {
        self.shared.add_permits(*self.borrowed.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::peer::Peer;
    use crate::unfinished::Unfinished;

    fn places(shared: &Arc<Semaphore>) -> AnswerPlaces {
        let connection = Unfinished::new(1024).share(Peer::default());
        AnswerPlaces::new(Arc::clone(shared), connection)
    }

    #[tokio::test]
    async fn answers_have_their_places_and_give_them_back() {
        let all = shared();
        let places = places(&all);
        for _ in 0..ANSWERS_MAX {
            places.reserve().now_or_never().expect("there is a place").unwrap();
        }
        assert_eq!(all.available_permits(), SHARED - BORROWED_MAX);
        let mut waiting = Box::pin(places.reserve());
        assert!(waiting.as_mut().now_or_never().is_none(), "nothing has been read");
        places.free();
        waiting.await.unwrap();
        for _ in 0..ANSWERS_MAX {
            places.free();
        }
        assert_eq!(all.available_permits(), SHARED);
    }

    #[tokio::test]
    async fn a_stream_that_ends_gives_back_what_it_borrowed_and_others_have_their_own() {
        let all = Arc::new(Semaphore::new(10));
        let greedy = places(&all);
        for _ in 0..OWN + 10 {
            greedy.reserve().now_or_never().expect("there is a place").unwrap();
        }
        assert!(greedy.reserve().now_or_never().is_none());
        let other = places(&all);
        other.reserve().now_or_never().expect("everyone has some").unwrap();
        drop(greedy);
        assert_eq!(all.available_permits(), 10);
    }
}
