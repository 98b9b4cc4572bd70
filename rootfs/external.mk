include $(sort $(wildcard $(BR2_EXTERNAL_SALLYPORT_PATH)/package/*/*.mk))
