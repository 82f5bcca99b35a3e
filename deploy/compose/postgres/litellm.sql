-- Beside the router's own database, which the image creates.
CREATE DATABASE litellm;
