<?php
// Filters and absence notes, kept by Dovecot.
$config['managesieve_host'] = '127.0.0.1:14190';
$config['managesieve_auth_type'] = 'PLAIN';
$config['managesieve_usetls'] = false;
$config['managesieve_default'] = '';
$config['managesieve_script_name'] = 'filters';
$config['managesieve_vacation'] = 1;
$config['managesieve_forward'] = 0;
