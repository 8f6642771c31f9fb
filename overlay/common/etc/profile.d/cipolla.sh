# A login of the owner: shows passwords that wait to be written down, once; later says that they still wait.
# Acknowledging them is the owner's own step (cipolla ack): a login proves who came, not that anything was read.
if [ "$(id -u)" -eq 0 ] && [ -t 0 ] && [ -t 1 ]; then
  cipolla greet || true
fi
# A prompt of root's that nobody typed at for an hour closes. Who needs it open: unset TMOUT.
if [ "$(id -u)" -eq 0 ]; then
  TMOUT=3600
fi
