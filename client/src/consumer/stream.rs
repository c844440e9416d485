//! Records as a [`Stream`], for those who would rather not poll.

use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;

use super::error::ConsumeError;
use super::handle::Consumer;
use super::records::{IntoIter, Record};

impl Consumer {
    /// All records from here on, one at a time; it never ends. It polls when it needs more, so a record counts as taken
    /// by the application once all that came with it were taken, and more was asked for. After an error it goes on, as
    /// poll does.
    ///
    /// When it is dropped, the consumer stands after the last record that was taken from it: the rest comes with the next
    /// poll or stream.
    ///
    /// ```no_run
    /// # async fn example(consumer: &mut streamhouse_client::Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// use futures::TryStreamExt;
    ///
    /// let mut records = std::pin::pin!(consumer.stream());
    /// while let Some(record) = records.try_next().await? {
    ///     println!("{} {:?}", record.offset, record.value);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(&mut self) -> impl Stream<Item = Result<Record, ConsumeError>> + '_ {
        unfold(Streaming { consumer: self, polled: None }, |mut streaming| async move {
            loop {
                if let Some(record) = streaming.polled.as_mut().and_then(Iterator::next) {
                    return Some((Ok(record), streaming));
                }
                streaming.polled = None;
                match streaming.consumer.poll(Duration::MAX).await {
                    Ok(polled) => streaming.polled = Some(polled.into_iter()),
                    Err(error) => return Some((Err(error), streaming)),
                }
            }
        })
    }
}

struct Streaming<'a> {
    consumer: &'a mut Consumer,
    polled: Option<IntoIter>,
}

impl Drop for Streaming<'_> {
    fn drop(&mut self) {
        if let Some(rest) = self.polled.take() {
            self.consumer.take_back(rest);
        }
    }
}
