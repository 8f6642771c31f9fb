<?php
// Changing one's password: the webmail may not touch the accounts; it asks the appliance's program, which checks
// the old password itself. The protocol is poppassd's, over a unix socket that only this program's user may open.
$config['password_driver'] = 'poppassd';
$config['password_pop_host'] = 'unix:///run/cipolla-password/socket';
$config['password_pop_port'] = 0;
$config['password_confirm_current'] = true;
$config['password_minimum_length'] = 12;
$config['password_force_save'] = false;
$config['password_username_format'] = '%u';
