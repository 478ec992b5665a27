//! Runs the requests of a connection inside the connection's own task.
//!
//! hyper hands each request of an HTTP/2 connection to an executor. A task of its own for each would
//! cost a pass of the scheduler and wake the connection for every single answer: a system call per
//! answer. Here all requests that can make progress do so in one poll, and the connection then sends
//! their answers with one write (`gathered`). Work that would hold up the others runs in tasks of its own: ranges
//! of many keys (`kv::range`), streams (`response_stream`).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::task::coop::unconstrained;

use crate::gathered::Outlet;

type Request = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Requests that a connection has accepted and that were not polled yet.
#[derive(Clone, Default)]
pub(crate) struct InlineExecutor {
    fresh: Arc<Mutex<Vec<Request>>>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for InlineExecutor {
    fn execute(&self, request: F) {
        self.fresh.lock().push(Box::pin(request));
    }
}

/// A connection together with its requests. It completes when the connection does, which drops the
/// requests that are left.
pub(crate) struct ConnectionTask<C, S> {
    connection: Pin<Box<C>>,
    outlet: Outlet<S>,
    requests: InlineExecutor,
    running: FuturesUnordered<Request>,
}

impl<C, S> ConnectionTask<C, S> {
    /// The connection was built with the executor `requests`, and on the other end of `outlet`.
    pub(crate) fn new(connection: C, outlet: Outlet<S>, requests: InlineExecutor) -> Self {
        let running = FuturesUnordered::new();
        Self { connection: Box::pin(connection), outlet, requests, running }
    }

    pub(crate) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }
}

impl<C: Future, S: AsyncWrite + Unpin> Future for ConnectionTask<C, S> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        let connection = this.connection.as_mut().poll(task);
        this.outlet.send(task);
        this.running.extend(this.requests.fresh.lock().drain(..));
        // Each answer wakes the connection, which sends them all in its next poll. The connection may
        // have used up tokio's budget for this task; requests would then be polled in vain.
        let running = poll_fn(|task| this.running.poll_next_unpin(task));
        let mut running = pin!(unconstrained(running));
        while let Poll::Ready(Some(())) = running.as_mut().poll(task) {}
        connection
    }
}
