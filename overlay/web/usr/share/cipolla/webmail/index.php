<?php
// The webmail's only entry. Its program lies in the read-only root; Debian's own entry would start it through
// links in /var.
define('INSTALL_PATH', '/usr/share/roundcube/');
require INSTALL_PATH . 'index.php';
