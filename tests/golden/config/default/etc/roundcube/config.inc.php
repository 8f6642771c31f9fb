<?php
// The webmail. Every other option has its default in defaults.inc.php.
$config = [];

// -- where mail is: this machine's loopback, ports that only this program's user may connect to
$config['imap_host'] = '127.0.0.1:10143';
$config['imap_auth_type'] = 'PLAIN';
$config['imap_delimiter'] = '/';
$config['smtp_host'] = '127.0.0.1:10587';
$config['smtp_user'] = '%u';
$config['smtp_pass'] = '%p';
$config['smtp_helo_host'] = 'fa4ihb4fp3vmfksp4qhv5hurrjofv4cmfuwjh6f6qlgculvns274vdid.onion';
$config['username_domain'] = 'fa4ihb4fp3vmfksp4qhv5hurrjofv4cmfuwjh6f6qlgculvns274vdid.onion';
$config['username_domain_forced'] = true;
$config['mail_domain'] = 'fa4ihb4fp3vmfksp4qhv5hurrjofv4cmfuwjh6f6qlgculvns274vdid.onion';
$config['max_message_size'] = '25M';
$config['max_recipients'] = 50;

// -- state
$config['db_dsnw'] = 'sqlite:////var/lib/roundcube/db/roundcube.sqlite?mode=0600';
$config['des_key'] = trim(file_get_contents('/var/lib/cipolla/web/des_key'));
$config['cipher_method'] = 'AES-256-CBC';
$config['temp_dir'] = '/var/lib/roundcube/temp';
$config['temp_dir_ttl'] = '12h';
$config['log_driver'] = 'syslog';
$config['syslog_id'] = 'roundcube';
$config['syslog_facility'] = LOG_MAIL;
$config['log_logins'] = false;
$config['smtp_log'] = false;

// -- nothing leaves: no reports, no remote images, no look-ups, no name of a program
$config['useragent'] = null;
$config['http_received_header'] = false;
$config['show_images'] = 0;
$config['enable_spellcheck'] = false;
$config['spellcheck_engine'] = 'pspell';
$config['mdn_requests'] = 2;
$config['support_url'] = '';
$config['enable_installer'] = false;
$config['email_dns_check'] = false;

// -- sessions. Addresses are circuits and change; the cookie is what counts.
$config['ip_check'] = false;
$config['session_name'] = 'sid';
$config['session_lifetime'] = 30;
$config['session_samesite'] = 'Strict';
$config['login_autocomplete'] = 1;
// (After so many wrong passwords a minute Roundcube would refuse the right one, too. Slow answers are Dovecot's.)
$config['login_rate_limit'] = 0;
$config['password_charset'] = 'UTF-8';
$config['x_frame_options'] = 'sameorigin';

// -- the look: plain, quiet, ready to use
$config['product_name'] = 'Mail';
$config['skin'] = 'elastic';
$config['skins_allowed'] = ['elastic'];
$config['display_product_info'] = 0;
$config['skin_logo'] = ['*' => 'logo.svg', '[favicon]' => 'logo.svg'];
$config['blankpage_url'] = 'blank.html';
$config['language'] = null;
$config['timezone'] = 'auto';
$config['date_format'] = 'Y-m-d';
$config['htmleditor'] = 0;
$config['prefer_html'] = true;
$config['draft_autosave'] = 120;
$config['refresh_interval'] = 120;
$config['check_all_folders'] = false;
$config['reply_mode'] = 1;
// One identity, made from the address at the first login; its address is fixed (the server would refuse another).
$config['identities_level'] = 3;
$config['create_default_folders'] = false;
$config['drafts_mbox'] = 'Drafts';
$config['sent_mbox'] = 'Sent';
$config['junk_mbox'] = 'Junk';
$config['trash_mbox'] = 'Trash';
$config['archive_mbox'] = 'Archive';

// -- plugins
$config['plugins'] = ['archive', 'zipdownload', 'markasjunk', 'managesieve', 'password'];
